"""Pass `choose-scheme`: which ops run in integers, and the type of every tensor they touch, each with its reason.

Results are attributes: `q.integer` on ops that become integer ops, `q.float` (the reason) on those that stay float,
`q.types` (one type a result, a unit where none is stored), `q.why` and `q.numbers` (its figures) on ops, `q.types`
on the function for its arguments, `q.weight` for the constant operand of an op. `insert-qdq` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, ModuleOp, StringAttr, UnitAttr, f32
from xdsl.ir import Attribute, Operation, SSAValue

from qcompiler.calibration.expected import Expected, Function
from qcompiler.calibration.statistics import TensorStatistics
from qcompiler.errors import CalibrationError, PipelineError
from qcompiler.ir.graph import border, classes, is_activation
from qcompiler.ir.onnx_dialect import NoneOp
from qcompiler.ir.pointwise import Pointwise, evaluate, fused_clamp, op_name
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.values import (
    body,
    describe,
    is_float,
    main,
    rank,
    users,
    value_names,
)
from qcompiler.passes.calibrate import calibration_method, load_statistics
from qcompiler.passes.canonicalize import constant_array, macs
from qcompiler.passes.channel_scales import channel_scales, depthwise_readers
from qcompiler.passes.composites import composites
from qcompiler.passes.decoding import decoding_values
from qcompiler.passes.fusion import adds_bias, inner_values, matmul_bias
from qcompiler.passes.integer_rules import present, reason_for_float, rules, sixteen_bit_obstacle
from qcompiler.passes.scheme import (
    SYMMETRIC_UP_TO,
    WIDE_BELOW,
    Choice,
    choose_activation,
    choose_constant,
    choose_weight,
    sixteen_bits,
)
from qcompiler.passes.wishes import Wish, common_wish, wish_of, wish_of_argument, wished_storage
from qcompiler.pipeline import CompilerContext, QuantPass, Stage
from qcompiler.profiles import constraints, resolve_profile

_MAC_GAIN = 0.1
"""What one integer multiply-add saves over a float one, in bytes of traffic (about a tenth of a nanosecond)."""

_SPREAD = 4.0
"""Concat operands whose ranges differ by more than this factor keep types of their own."""

_OPERAND_TOLERANCE = 2.0
"""As SYMMETRIC_UP_TO, for the right operand of a matrix product, where a zero point costs sums at run time."""


@dataclass(frozen=True)
class ChooseScheme(QuantPass):
    """Chooses what runs in integers, and symmetric or affine, scale and zero point of every tensor, with reasons.

    `policy`: auto, symmetric, affine or mixed. `per-channel`: one weight scale per output channel.
    `profile`: a runtime of qcompiler.profiles whose limits the types must keep. Obeys `q.recipe`, left by apply-recipe.
    """

    name: ClassVar[str] = "choose-scheme"
    requires: ClassVar = (Stage.CALIBRATED,)
    ensures: ClassVar = Stage.CHOSEN
    policy: str = "auto"
    per_channel: bool = True
    profile: str | None = None

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        _Chooser(self, ctx, module).run()


@dataclass
class _Chooser:
    options: ChooseScheme
    ctx: CompilerContext
    module: ModuleOp
    choices: dict[SSAValue, Choice] = field(default_factory=dict)

    def run(self) -> None:
        self.names = value_names(self.module)
        self.order = {value: index for index, value in enumerate(self.names)}
        self.method = calibration_method(self.module)
        self.storage = self.ctx.target.activation_storage if self.ctx.target else "u8"
        self.pointwise = Pointwise.of(self.module, self.ctx.store)
        self.inner = inner_values(self.module, self.ctx.store, self.pointwise)
        self.limits = constraints(resolve_profile(self.options.profile)) if self.options.profile else None
        forced = self.limits.policy if self.limits else None
        self.policy = forced or self.options.policy
        self.symmetric_only = forced == "symmetric"
        self.composites = composites(self.module, self.ctx.store)
        self.decoding = decoding_values(self.module, self.ctx.store, self.pointwise)
        self.integer = self._split()
        self._choose_activations()
        self._choose_weights()
        self._record()

    def statistics(self, value: SSAValue) -> TensorStatistics:
        found = load_statistics(self.ctx.store, self.names[value])
        if found is None:
            raise CalibrationError(
                f"{self.ctx.source}: no statistics of '{self.names[value]}'; run calibrate on this module first"
            )
        return found

    # ------------------------------------------------------------------------------ integer or float

    def _reason(self, op: Operation) -> str | None:
        if (wish := wish_of(op)).keeps_float:
            return f"kept in float by the recipe ({wish.precision})"
        if not any(is_activation(v) for v in op.operands):
            return "computed from constants"
        if self.ctx.target is not None and self.ctx.target.constant_rhs_only and _two_activations(op):
            return f"{self.ctx.target.name} multiplies by constant matrices alone"
        if op in self.composites:
            return f"inside {self.composites[op]}, which is quantized at its border"
        values = [v for v in (*op.operands, *op.results) if is_activation(v)]
        if not all(is_float(v) for v in values):
            return reason_for_float(op, self.ctx.store) or f"{op_name(op)} on values that are not float32"
        if op.results[0] in self.pointwise.roots:
            root = self.pointwise.roots[op.results[0]]
            return None if is_activation(root) else "computed from constants"
        if op_name(op) in ("Relu", "Clip") and op.operands[0] in self.inner:
            return None
        return reason_for_float(op, self.ctx.store)

    def _split(self) -> set[Operation]:
        gains: dict[Operation, float] = {}
        self.reasons: dict[Operation, str] = {}
        for op in body(self.module).ops:
            if isinstance(op, ConstantOp | NoneOp) or not op.results:
                continue
            reason = self._reason(op)
            if reason is None:
                gains[op] = _MAC_GAIN * macs(op)
            else:
                self.reasons[op] = reason
        for op in self._spread_concats(set(gains)):
            del gains[op]
            self.reasons[op] = "its operands differ too much in range to share one scale, and only the output reads it"
        for op in self._spread_parts(set(gains)):
            del gains[op]
            self.reasons[op] = "the parts of the input differ too much in range to share one scale"
        _, integer = border(self.module, gains, self.inner)
        for op in gains.keys() - integer:
            self.reasons[op] = "between float operations, where quantizing would only cost"
        for op, reason in self.reasons.items():
            op.attributes["q.float"] = StringAttr(reason)
        return integer

    def _spread_concats(self, candidates: set[Operation]) -> list[Operation]:
        """Concats of unlike ranges that reach nothing but outputs, through movements alone, and those movements."""
        found: list[Operation] = []
        table = rules()
        for op in reversed(list(body(self.module).ops)):
            rule = table.get(op_name(op))
            if op not in candidates or rule is None or not rule.moves:
                continue
            if all(not u.results or u in found for r in op.results for u in users(r)):
                found.append(op)
        heads = [op for op in found if op_name(op) == "Concat" and not self._alike(op)]
        reached: set[Operation] = set()
        for op in reversed(found):
            if op in heads or any(v.owner in reached for v in op.operands):
                reached.add(op)
        return [op for op in found if op in reached]

    def _spread_parts(self, candidates: set[Operation]) -> list[Operation]:
        """Movements that take parts of unlike ranges out of one input: several states packed in a tensor."""
        table = rules()
        found: list[Operation] = []
        for argument in body(self.module).args:
            parts = [op for op in users(argument) if op in candidates and (r := table.get(op_name(op))) and r.moves]
            if is_float(argument) and len(parts) > 1 and not self._similar([r for op in parts for r in op.results]):
                found += parts
        return found

    def _alike(self, concat: Operation) -> bool:
        """Whether all operands of a Concat use at least a quarter of the common range."""
        return self._similar(concat.operands)

    def _similar(self, values: Sequence[SSAValue]) -> bool:
        """Whether all of these use at least a quarter of their common range."""
        spans = []
        for value in values:
            if not is_activation(value) or not is_float(value):
                return True
            s = self.statistics(value)
            spans.append((min(s.minimum, 0.0), max(s.maximum, 0.0)))
        common = max(hi for _, hi in spans) - min(lo for lo, _ in spans)
        return all((hi - lo) * _SPREAD >= common for lo, hi in spans)

    # ---------------------------------------------------------------------------------- activations

    def _choose_activations(self) -> None:
        block = body(self.module)
        stored = {
            value: None
            for op in block.ops
            if op in self.integer
            for value in (*op.operands, *op.results)
            if is_activation(value) and is_float(value) and value not in self.inner
        }
        pairs = [(v, v) for v in stored]
        moved: set[SSAValue] = set()
        table = rules()
        for op in block.ops:
            rule = table.get(op_name(op))
            if op not in self.integer or rule is None or not rule.moves:
                continue
            sources = op.operands if op_name(op) == "Concat" else op.operands[:1]
            if op_name(op) == "Concat" and not self._alike(op):
                continue
            if all(is_activation(x) for x in sources):  # else the result's range is that of a constant too
                moved.update(op.results)
            pairs += [(x, y) for x in sources for y in op.results if x in stored and y in stored]
        for members in classes(pairs):
            self._choose_class(sorted(members, key=self.order.__getitem__), moved)

    def _choose_class(self, members: Sequence[SSAValue], moved: set[SSAValue]) -> None:
        sources = [v for v in members if v not in moved] or list(members)
        what = " and ".join(f"'{self.names[v]}'" for v in members[:3]) + (" and others" if len(members) > 3 else "")
        wish = common_wish((w for v in members for w in self._wishes(v)), what)
        statistics = self.statistics(sources[0])
        if len(sources) > 1:
            statistics = statistics.one_channel()
        for value in sources[1:]:
            statistics = statistics.merge(self.statistics(value).one_channel())
        expected = Expected(statistics, self._functions(members))
        policy = self.policy if self.symmetric_only else wish.scheme or self.policy
        if not self.symmetric_only and not wish.range and all(op_name(v.owner) == "Softmax" for v in sources):
            zero = 0 if self.storage.startswith("u") else -128
            choice = Choice(UniformType.make(self.storage, 1 / 256, zero), "affine: softmax lies in 0..1")
        else:
            right = any(op_name(u) == "MatMul" and u.operands[1] is v for v in members for u in users(v))
            tolerance = _OPERAND_TOLERANCE if right else SYMMETRIC_UP_TO
            method = wish.method or self.method
            choice = choose_activation(expected, method, self.storage, policy, tolerance, wish.range)
        choice = self._widened(members, wish, expected, choice, what)
        if len(members) == 1 and policy == "auto" and self.limits is None and wish == Wish():
            choice = self._per_channel(members[0], statistics, choice)
        shared = f"; shared by {len(members)} tensors" if len(members) > 1 else ""
        self.choices.update({v: Choice(choice.type, choice.why + shared, choice.numbers) for v in members})

    def _wishes(self, value: SSAValue) -> list[Wish]:
        """What the recipe asks of the ops that become the one which makes a value."""
        if not isinstance(value.owner, Operation):
            arguments = list(body(self.module).args)
            return [wish_of_argument(main(self.module), arguments.index(value), self.names[value])]
        wishes = [wish_of(value.owner)] if value.owner in self.integer else []
        return wishes + [w for v in value.owner.operands if v in self.inner for w in self._wishes(v)]

    def _functions(self, members: Sequence[SSAValue]) -> list[Function]:
        """The tables that read these values; empty if something else reads them too."""
        found: list[Function] = []
        for value in members:
            inside: list[SSAValue] = [value]
            for v in inside:
                for op in users(v):
                    if op in self.integer and any(r in members for r in op.results):
                        continue
                    if op not in self.integer or self.pointwise.roots.get(op.results[0]) is not value:
                        return []
                    if op.results[0] in self.inner:
                        inside.append(op.results[0])
                    else:
                        found.append(partial(self._table, op.results[0], value))
        return found

    def _table(self, result: SSAValue, root: SSAValue, x: np.ndarray) -> np.ndarray:
        return evaluate(result, root, x, self.ctx.store)

    def _widened(
        self, members: Sequence[SSAValue], wish: Wish, expected: Expected, choice: Choice, what: str
    ) -> Choice:
        """16 bits where the recipe asks for them, or where 8 would lose too much and nothing stands against."""
        obstacles = [(v, sixteen_bit_obstacle(v, self.ctx.store)) for v in members]
        if wished_storage(wish, obstacles, what):
            return sixteen_bits(expected, choice, "the recipe asks for it", wish.range)
        expects = choice.numbers.get("db", WIDE_BELOW)
        allowed = self.policy == "auto" and (self.limits is None or self.limits.sixteen_bits)
        allowed = allowed and not (wish.precision or wish.range) and all(r is None for _, r in obstacles)
        decoded = all(v in self.decoding for v in members)
        if not allowed or (expects >= WIDE_BELOW and not decoded):
            return choice
        reason = f"8 bits would have {expects:.1f} dB, less than {WIDE_BELOW:g}"
        if decoded:
            reason = "behind the last products, where predictions are decoded, it costs next to nothing"
        return sixteen_bits(expected, choice, reason)

    def _per_channel(self, value: SSAValue, statistics: TensorStatistics, choice: Choice) -> Choice:
        """A scale a channel where depthwise convolutions alone read a value and gain by it."""
        readers = depthwise_readers(value, self.integer, self.pointwise, self.inner)
        found = channel_scales(statistics, choice.type, readers, self.ctx.store) if readers else None
        if found is None:
            return choice
        why = f"per channel: {found.gain:.1f} dB less noise in the depthwise convolution than one scale"
        return Choice(found.type, why, {**choice.numbers, "per_channel_gain_db": found.gain})

    # -------------------------------------------------------------------------------------- weights

    def _choose_weights(self) -> None:
        for op in body(self.module).ops:
            if op not in self.integer:
                continue
            if op_name(op) in ("Conv", "Gemm", "MatMul") and isinstance(op.operands[1].owner, ConstantOp):
                self._choose_weight(op)
            elif op_name(op) in ("Add", "Sub", "Mul", "Concat") and op.results[0] not in self.pointwise.roots:
                self._choose_operands(op)

    def _choose_weight(self, op: Operation) -> None:
        last, bias = op.results[0], present(op, 2)
        if (add := matmul_bias(op, self.ctx.store)) is not None:
            bias = add.operands[1] if add.operands[0] is last else add.operands[0]
            last = add.results[0]
        if (clamp := fused_clamp(last, self.ctx.store)) is not None:
            last = clamp.results[0]
        weight = constant_array(op.operands[1], self.ctx.store)
        assert weight is not None
        vector = constant_array(bias, self.ctx.store)
        axis = 0 if op_name(op) == "Conv" else rank(op.operands[1]) - 1
        x_scale, y_scale = (self.choices[v].type.scales.astype(np.float64) for v in (op.operands[0], last))
        if x_scale.ndim:  # of a depthwise convolution
            x_scale = np.repeat(x_scale, weight.shape[0] // len(x_scale))
        flat = None if vector is None else vector.reshape(-1)
        axes = op_name(op) == "Conv" or rank(op.operands[1]) == 2
        axes = axes and (self.limits is None or op_name(op) in self.limits.per_channel)
        per_channel = self.options.per_channel and axes
        if (wish := wish_of(op).weights) in ("per-tensor", "per-channel"):
            if wish == "per-channel" and not axes:
                raise PipelineError(f"{describe(op)}: the recipe asks for weights per channel, which it cannot have")
            per_channel = wish == "per-channel"
        narrow = self.ctx.target is not None and self.ctx.target.narrow_weights
        cost = self._zero_point_cost(op)
        choice, widened = choose_weight(weight, axis, per_channel, x_scale, y_scale, flat, cost, narrow)
        op.attributes["q.weight"] = choice.type
        op.attributes["q.why_weight"] = StringAttr(choice.why)
        _add_numbers(op, choice.numbers)
        if widened:
            self.ctx.notes.append(
                f"{describe(op)}: the weight scale of {len(widened)} of {weight.shape[axis]} channels was widened "
                f"(dead channels, or a bias that would leave int32): {widened[:8]}{'...' if len(widened) > 8 else ''}"
            )

    def _zero_point_cost(self, op: Operation) -> float:
        """What weights with zero points would cost in this product, infinite where they are out of the question."""
        target = self.ctx.target
        fits = op_name(op) != "Conv" and rank(op.operands[1]) == 2 and self.policy == "auto" and self.limits is None
        return target.weight_zero_point_cost if target is not None and fits else np.inf

    def _choose_operands(self, op: Operation) -> None:
        """Types of the constant operands of a sum, product or Concat."""
        if adds_bias(op, self.ctx.store):
            return
        kinds: list[Attribute] = []
        wide = any(r in self.choices and self.choices[r].type.dtype.itemsize > 1 for r in op.results)
        storage, symmetric = ("i16", True) if wide else (self.storage, self.symmetric_only)
        for value in op.operands:
            array = constant_array(value, self.ctx.store)
            kinds.append(UnitAttr() if array is None else choose_constant(array, storage, symmetric).type)
        if not all(isinstance(k, UnitAttr) for k in kinds):
            op.attributes["q.operands"] = ArrayAttr(kinds)

    # --------------------------------------------------------------------------------------- record

    def _record(self) -> None:
        function = main(self.module)
        function.attributes["q.types"] = self._types(function.body.block.args)
        for op in body(self.module).ops:
            if op in self.integer:
                op.attributes["q.integer"] = UnitAttr()
            if any(r in self.choices for r in op.results):
                op.attributes["q.types"] = self._types(op.results)
                choice = next(self.choices[r] for r in op.results if r in self.choices)
                op.attributes["q.why"] = StringAttr(choice.why)
                _add_numbers(op, choice.numbers)
        arguments = [a for a in function.body.block.args if a in self.choices]
        for argument in arguments:
            _add_numbers(function, self.choices[argument].numbers)
        if arguments:
            function.attributes["q.why"] = ArrayAttr(
                [StringAttr(self.choices[a].why if a in self.choices else "") for a in function.body.block.args]
            )

    def _types(self, values: Sequence[SSAValue]) -> ArrayAttr[Attribute]:
        return ArrayAttr([self.choices[v].type if v in self.choices else UnitAttr() for v in values])


def _add_numbers(op: Operation, numbers: Mapping[str, float]) -> None:
    """Adds figures to `q.numbers`; of the function's arguments the last one's stand."""
    old = op.attributes.get("q.numbers")
    kept = dict(old.data) if isinstance(old, DictionaryAttr) else {}
    if numbers:
        new = {key: FloatAttr(round(number, 4), f32) for key, number in numbers.items()}
        op.attributes["q.numbers"] = DictionaryAttr({**kept, **new})


def _two_activations(op: Operation) -> bool:
    """Whether an op is a product of two matrices that both depend on the inputs."""
    return op_name(op) == "MatMul" and all(is_activation(v) for v in op.operands)
