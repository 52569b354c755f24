"""Sites of a module in stage CHOSEN: what is quantized there and can be decided one by one, and its simulation.

A site is a class of activations that share one type, or a constant operand of one op. In simulation each is float, of
its chosen type, or (activations alone) of 16 bits.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, ModuleOp, StringAttr, f32
from xdsl.ir import Attribute, Operation, SSAValue

from qcompiler.arithmetic.affine import choose_symmetric, storage_range
from qcompiler.calibration.simulate import RAW, Simulator, Tap, Variable, rounded
from qcompiler.exporters.onnx_export import export_onnx
from qcompiler.ir.graph import classes, is_activation
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import body, rank, users, value_names
from qcompiler.passes.calibrate import load_statistics
from qcompiler.passes.canonicalize import constant_array
from qcompiler.passes.fusion import matmul_bias
from qcompiler.passes.integer_rules import present, rules, sixteen_bit_obstacle
from qcompiler.passes.originals import original


class Level(enum.Enum):
    """Precision of a site in a simulation."""

    FLOAT = "float"
    CHOSEN = "chosen"
    """As choose-scheme decided, 8 bits as a rule."""
    WIDE = "i16"


@dataclass(frozen=True, eq=False)
class Site:
    """`values` share the type of an activation site; a constant site is `op`'s operand at `index`."""

    name: str
    """Of the first value, or of the op."""
    type: UniformType
    values: tuple[SSAValue, ...] = ()
    op: Operation | None = None
    index: int = 0
    wide: UniformType | None = None
    """The symmetric 16-bit type of an activation site; None if it has 16 bits already, or no statistics."""
    obstacle: str = ""
    """Why an activation site cannot have its `wide` type as the module stands; empty if it can."""

    @property
    def kind(self) -> str:
        if self.op is None:
            return "activation"
        return "weight" if "q.weight" in self.op.attributes else "constant"


def value_type(value: SSAValue) -> UniformType | None:
    """The type choose-scheme gave a value, None if it stores none."""
    kinds = _holder(value).attributes.get("q.types")
    if not isinstance(kinds, ArrayAttr):
        return None
    kind = kinds.data[value.index]  # type: ignore[attr-defined]
    return kind if isinstance(kind, UniformType) else None


def typed_values(module: ModuleOp) -> list[SSAValue]:
    """Values that carry a type, in order."""
    block = body(module)
    values = [*block.args, *(r for op in block.ops for r in op.results)]
    return [v for v in values if value_type(v) is not None]


def _holder(value: SSAValue) -> Operation:
    """The op that carries a value's attributes: its producer, or the function of an argument."""
    owner = value.owner if isinstance(value.owner, Operation) else value.owner.parent_op()
    assert owner is not None
    return owner


def set_value_type(value: SSAValue, kind: Attribute, why: str) -> None:
    """Gives a value another type, or none (a unit), with the reason."""
    holder, index = _holder(value), value.index  # type: ignore[attr-defined]
    kinds, reason = holder.attributes["q.types"], holder.attributes.get("q.why")
    assert isinstance(kinds, ArrayAttr)
    holder.attributes["q.types"] = ArrayAttr([kind if i == index else k for i, k in enumerate(kinds.data)])
    if isinstance(value.owner, Operation):
        holder.attributes["q.why"] = StringAttr(why)
    elif isinstance(reason, ArrayAttr):
        holder.attributes["q.why"] = ArrayAttr(
            [StringAttr(why) if i == index else r for i, r in enumerate(reason.data)]
        )


def record_number(site: Site, key: str, number: float) -> None:
    """Adds a figure to `q.numbers` of the ops that make a site's values; of arguments the last one stands.

    That of a constant gets the prefix `weight_` or `constant_`.
    """
    if site.op is not None:
        key, holders = f"{site.kind}_{key}", [site.op]
    else:
        holders = [_holder(value) for value in site.values]
    for holder in dict.fromkeys(holders):
        old = holder.attributes.get("q.numbers")
        numbers = dict(old.data) if isinstance(old, DictionaryAttr) else {}
        holder.attributes["q.numbers"] = DictionaryAttr({**numbers, key: FloatAttr(round(number, 2), f32)})


def _moved(op: Operation) -> Sequence[SSAValue]:
    """Operands whose type an integer data movement hands to its results; none for other ops."""
    rule = rules().get(op_name(op))
    if rule is None or not rule.moves or "q.integer" not in op.attributes:
        return ()
    return [v for v in (op.operands if op_name(op) == "Concat" else op.operands[:1]) if is_activation(v)]


def find_sites(module: ModuleOp, store: ConstantStore) -> list[Site]:
    """All sites in order of execution; a constant site stands where its op does."""
    names = value_names(module)
    values = typed_values(module)
    order = {v: i for i, v in enumerate(values)}
    pairs = [(v, v) for v in values]
    for op in body(module).ops:
        for y in op.results:
            kind = value_type(y)
            pairs += [(x, y) for x in _moved(op) if kind is not None and value_type(x) == kind]
    found: dict[SSAValue, Site] = {}
    for members in classes(pairs):
        ordered = tuple(sorted(members, key=order.__getitem__))
        found[ordered[0]] = _activation_site(ordered, names, store)
    sites = [found[a] for a in body(module).args if a in found]
    for op in body(module).ops:
        sites += _constant_sites(op, names)
        sites += [found[r] for r in op.results if r in found]
    return sites


def _activation_site(values: tuple[SSAValue, ...], names: Mapping[SSAValue, str], store: ConstantStore) -> Site:
    kind = value_type(values[0])
    assert kind is not None
    name = names[values[0]]
    statistics = [s for v in values if (s := load_statistics(store, names[v])) is not None]
    if kind.storage in ("i16", "u16") or not statistics:
        return Site(name, kind, values)
    lo, hi = min(s.minimum for s in statistics), max(s.maximum for s in statistics)
    scale, zero = choose_symmetric(lo, hi, *storage_range("i16"))
    obstacle = next((r for v in values if (r := sixteen_bit_obstacle(v, store)) is not None), "")
    return Site(name, kind, values, wide=UniformType.make("i16", scale, zero), obstacle=obstacle)


def _constant_sites(op: Operation, names: Mapping[SSAValue, str]) -> Iterator[Site]:
    if isinstance(kind := op.attributes.get("q.weight"), UniformType):
        yield Site(names[op.results[0]], kind, op=op, index=1)
    if isinstance(kinds := op.attributes.get("q.operands"), ArrayAttr):
        for index, kind in enumerate(kinds.data):
            if isinstance(kind, UniformType):
                yield Site(names[op.results[0]], kind, op=op, index=index)


def bias_holder(op: Operation, store: ConstantStore) -> tuple[Operation, int] | None:
    """The op and operand position of the bias of a Conv, Gemm or MatMul, None if it has none."""
    if (add := matmul_bias(op, store)) is not None:
        return add, 1 if add.operands[0] is op.results[0] else 0
    return (op, 2) if present(op, 2) is not None else None


class Simulation:
    """A module in stage CHOSEN that runs with any precision at every site.

    Args:
        observed: values to fetch besides the outputs, as their producers give them, before any rounding.

    Raises:
        ModelError: onnxruntime cannot load the float graph.
    """

    def __init__(self, module: ModuleOp, store: ConstantStore, observed: Sequence[SSAValue] = ()) -> None:
        self.module, self.store = module, store
        self.sites = find_sites(module, store)
        self.names = value_names(self.module)
        values = typed_values(self.module)
        self._rounded: dict[Site, np.ndarray] = {}
        taps = [self._tap(v) for v in values if not self._is_moved(v)]
        tapped = {t.value for t in taps if t.readers is None}
        self._tapped = {t.value for t in taps}
        self._fetched = {v: self.names[v] + (RAW if self.names[v] in tapped else "") for v in observed}
        self._variables = {s: self._variable(s.op, s.index) for s in self.sites if s.op is not None}
        self._biases: dict[Operation, Variable] = {}
        for site in self._variables:
            assert site.op is not None
            if site.kind == "weight" and (holder := bias_holder(site.op, self.store)) is not None:
                self._biases[site.op] = self._variable(*holder)
        variables = [*self._variables.values(), *self._biases.values()]
        proto = export_onnx(self.module, self.store)
        self._simulator = Simulator(proto, taps, variables, list(self._fetched.values()))
        self.outputs = self._simulator.outputs

    def _made_in_integers(self, value: SSAValue) -> bool:
        return isinstance(value.owner, Operation) and "q.integer" in value.owner.attributes

    def _is_moved(self, value: SSAValue) -> bool:
        """Whether a value holds nothing but stored integers of its own type already, and so needs no rounding."""
        op = value.owner
        if not isinstance(op, Operation) or op_name(op) == "Pad" or not (sources := _moved(op)):
            return False
        if op_name(op) == "Concat" and len(sources) < len(op.operands):
            return False
        return all(value_type(x) == value_type(value) for x in sources)

    def _tap(self, value: SSAValue) -> Tap:
        if self._made_in_integers(value):
            return Tap(self.names[value], rank(value))
        readers = [u for u in users(value) if "q.integer" in u.attributes]
        return Tap(self.names[value], rank(value), frozenset(self.names[u.results[0]] for u in readers))

    def _variable(self, op: Operation, index: int) -> Variable:
        return Variable(self.names[op.results[0]], index, original(op, index, self.store))

    def run(
        self,
        feed: Mapping[str, np.ndarray],
        levels: Mapping[Site, Level],
        default: Level = Level.CHOSEN,
        biases: Mapping[Operation, np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """Outputs by name. `levels` gives the precision of sites, `default` that of all others.

        `biases` replaces those of some Conv, Gemm and MatMul.
        """
        return self._run(feed, levels, default, biases or {}, None)

    def observe(
        self,
        feed: Mapping[str, np.ndarray],
        values: Sequence[SSAValue],
        levels: Mapping[Site, Level],
        default: Level = Level.CHOSEN,
        biases: Mapping[Operation, np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """As `run`, for some of the `observed` values; computes only what they depend on."""
        names = [self._fetched[v] for v in values]
        found = self._run(feed, levels, default, biases or {}, names)
        return [found[name] for name in names]

    def _run(
        self,
        feed: Mapping[str, np.ndarray],
        levels: Mapping[Site, Level],
        default: Level,
        biases: Mapping[Operation, np.ndarray],
        fetches: Sequence[str] | None,
    ) -> dict[str, np.ndarray]:
        types: dict[str, UniformType] = {}
        replaced = {self._biases[op].name: array for op, array in biases.items()}
        for site in self.sites:
            level = levels.get(site, default)
            if level is Level.FLOAT:
                continue
            if site.op is not None:
                replaced[self._variables[site].name] = self.constant(site)
                if site.op in self._biases and site.op not in biases:
                    replaced[self._biases[site.op].name] = self._stored_bias(site.op, site.type)
                continue
            kind = site.wide if level is Level.WIDE and site.wide is not None else site.type
            types.update({name: kind for v in site.values if (name := self.names[v]) in self._tapped})
        return self._simulator.run(feed, types, replaced, fetches)

    def _stored_bias(self, op: Operation, weight: UniformType) -> np.ndarray:
        """The bias in int32, of the scale `s_x * s_w` that insert-qdq gives it."""
        bias, x = self.bias(op), value_type(op.operands[0])
        if x is None or not x.per_tensor or weight.blocks:
            return bias
        scales = np.float64(x.scale) * weight.scales.astype(np.float64).reshape(-1)
        return (np.rint(bias.reshape(-1) / scales) * scales).astype(np.float32).reshape(bias.shape)

    def constant(self, site: Site) -> np.ndarray:
        """The rounded array of a constant site."""
        if site not in self._rounded:
            assert site.op is not None
            array = constant_array(site.op.operands[site.index], self.store)
            assert array is not None
            self._rounded[site] = rounded(array, site.type)
        return self._rounded[site]

    def bias(self, op: Operation) -> np.ndarray:
        """The bias, as corrected, of a Conv, Gemm or MatMul that has a weight site and a bias."""
        holder = bias_holder(op, self.store)
        assert holder is not None
        array = constant_array(holder[0].operands[holder[1]], self.store)
        assert array is not None
        return array


def units(module: ModuleOp) -> dict[Operation, list[Operation]]:
    """For every integer op, those that run in float only together with it: values between them are never stored."""
    integer = [op for op in body(module).ops if "q.integer" in op.attributes]
    pairs = [(op, op) for op in integer]
    for op in integer:
        pairs += [
            (op, v.owner)
            for v in op.operands
            if isinstance(v.owner, Operation) and "q.integer" in v.owner.attributes and value_type(v) is None
        ]
    return {op: [u for u in integer if u in members] for members in classes(pairs) for op in members}
