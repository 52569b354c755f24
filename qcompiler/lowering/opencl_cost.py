"""Static estimates of an OpenCL kernel: operations, bytes, registers; and the best work-group by cache lines.

All of it is read off the body in the forms of `opencl_forms`. The number of registers of 32 bits is that of a
compiler that keeps temporaries where they are declared, evaluates operands in the order that needs fewest registers,
and moves no load up:

* a temporary takes its bytes, rounded up to registers, from its declaration to the end of the block around it;
* so does a value that is bound to a name; a loop's counter and each number of a work-item take one;
* an expression takes what its operands need (R. Sethi, J. D. Ullman, The generation of optimal code for arithmetic
  expressions, 1970), and a load two more for its address;
* kernel arguments and constants take none: Mali has them in uniforms.

A compiler that loads early to hide latencies takes more, up to the step of occupancy that it aims at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod

from tvm.ir import Call, Expr, PrimType, Range, TensorLoad
from tvm.sym import Analyzer
from tvm.tirx import (
    AllocBuffer,
    Bind,
    Broadcast,
    BufferStore,
    Cast,
    DeclBuffer,
    Evaluate,
    For,
    IfThenElse,
    IntImm,
    SeqStmt,
    Shuffle,
    Stmt,
    Var,
)

from .device import LaunchCost
from .float_loops import substitute
from .opencl_forms import lanes_of
from .work_groups import Size

WARP = 16
"""Work-items that execute together on Mali-G57, G77 and later."""
LINE_BYTES = 64
FULL_OCCUPANCY = 32
"""Registers up to which a core holds as many work-items as it can; with up to twice as many, half of them."""
MOST_REGISTERS = 64
WORK_GROUP = 64
"""Work-items of a group: four warps, one for each of a core's engines at least."""

_ADDRESS = 2
_DOTS = {"qc_dot4": 1, "qc_dot16": 4}
"""Rows of four int8 that each multiplies by one vector."""
_CALLS = {"exp": 6, "log": 6, "pow": 12, "sqrt": 4, "rsqrt": 4, "qc_div": 8, "qc_div2": 16, "qc_div4": 32}
_CALLS |= {"qc_half_div": 20, "qc_half_div2": 20, "qc_half_div4": 20}
_IN_PAIRS = "qc_half_"
"""Arithmetic on float16, two of them in a register."""
_FREE = ("as_", "(", "qc_lanes")
_WIDE_FACTOR = 4
"""Instructions for an operation on 64 bits."""


@dataclass(frozen=True)
class ProductCost:
    """What products of a vector of four int8 by rows of four take."""

    once: int
    """Operations for the vector."""
    row: int
    """Operations for each row."""
    registers: int
    """Beside operands and sums."""


PRODUCTS = {"dot": ProductCost(once=0, row=1, registers=0), "plain": ProductCost(once=4, row=12, registers=8)}
"""By instruction set; `plain` converts both to vectors of int32, multiplies and adds."""


@dataclass(frozen=True)
class Access:
    """A load or store of global memory: index of its first element, bytes of an element, bytes, and how often."""

    index: Expr
    item: int
    nbytes: int
    times: int
    stores: bool


@dataclass
class _Count:
    operations: int = 0
    registers: int = 0


def launch_cost(body: Stmt, extents: Sequence[int], products: ProductCost) -> LaunchCost:
    """The cost of a kernel whose body is executed by `extents` work-items."""
    count = _Count()
    accesses: list[Access] = []
    _Walk(count, accesses, products).statement(body, 1, len(extents))
    items = prod(extents)
    read, written = (sum(a.nbytes * a.times for a in accesses if a.stores is stores) for stores in (False, True))
    registers = count.registers
    occupancy = "full" if registers <= FULL_OCCUPANCY else "half" if registers <= MOST_REGISTERS else "spills"
    return LaunchCost(count.operations * items, read * items, written * items, registers, occupancy)


def choose_work_group(body: Stmt, items: Sequence[Var], extents: Sequence[int]) -> Size:
    """The work-group with which the warps touch fewest cache lines, and the fewest work-items have nothing to do."""
    accesses: list[Access] = []
    _Walk(_Count(), accesses, PRODUCTS["dot"]).statement(body, 1, 0)
    strides = [(_strides(access, items), access) for access in accesses]

    def cost(size: Size) -> float:
        warp, left = [], WARP
        for n in size:
            warp.append(min(n, left))
            left //= warp[-1]
        lines = sum(_lines(steps, access.nbytes, warp) * access.times for steps, access in strides)
        warps = prod(-(-extent // n) for extent, n in zip(_three(extents), size, strict=True)) * ceil(prod(size) / WARP)
        return warps * (lines + 1)

    return min(_sizes(extents), key=lambda size: (cost(size), -prod(size), -size[0]))


def _three(extents: Sequence[int]) -> Size:
    x, y, z = (*extents, *[1] * (3 - len(extents)))
    return x, y, z


def _sizes(extents: Sequence[int]) -> list[Size]:
    """Sizes of powers of two with `WORK_GROUP` items, or fewer where there are not as many."""
    most = [1 << (extent - 1).bit_length() for extent in _three(extents)]
    powers = [[1 << i for i in range(WORK_GROUP.bit_length()) if 1 << i <= n] for n in most]
    whole = min(WORK_GROUP, prod(most))
    return [(x, y, z) for x, y, z in product(*powers) if x * y * z == whole]


def _lines(steps: Sequence[int], nbytes: int, warp: Sequence[int]) -> float:
    """Cache lines that a warp touches with an access whose address moves by `steps` bytes along the grid's axes."""
    covered = float(nbytes)
    for step, n in zip(steps, warp, strict=False):
        if step and n > 1:
            covered *= n * max(nbytes, min(step, LINE_BYTES)) / nbytes
    return min(max(1.0, covered / LINE_BYTES), prod(warp))


def _strides(access: Access, items: Sequence[Var]) -> list[int]:
    """Bytes from a work-item's access to that of its neighbours along each axis."""
    analyzer = Analyzer()
    found = []
    for item in items:
        analyzer.bind(item, Range(0, 1 << 20))
    for item in items:
        step = analyzer.simplify(substitute(access.index, {item: item + 1}) - access.index)
        found.append(abs(int(step)) * access.item if isinstance(step, IntImm) else LINE_BYTES)
    return found


@dataclass
class _Walk:
    """Walks a body; `live` registers are taken around a statement."""

    count: _Count
    accesses: list[Access]
    products: ProductCost

    def statement(self, node: Stmt, times: int, live: int) -> int:
        """Counts a statement; returns the registers that it leaves taken for those behind it."""
        if isinstance(node, SeqStmt):
            taken = 0
            for part in node.seq:
                taken += self.statement(part, times, live + taken)
            return taken
        if isinstance(node, For):
            extent = int(node.extent) if isinstance(node.extent, IntImm) else 1
            self.count.operations += 2 * extent * times
            self.statement(node.body, times * extent, live + 1)
        elif isinstance(node, IfThenElse):
            self._need(live + self.expression(node.condition, times))
            self.statement(node.then_case, times, live)
            if node.else_case is not None:
                self.statement(node.else_case, times, live)
        elif isinstance(node, AllocBuffer):
            size = prod(int(n) for n in node.buffer.shape)
            registers = ceil(size * node.buffer.dtype.lanes * node.buffer.dtype.bits / 32)
            self._need(live + registers)
            return registers
        elif isinstance(node, Bind):
            if not _is_item(node.value):
                self._need(live + self.expression(node.value, times))
                return _registers(node.value)
        elif isinstance(node, BufferStore):
            need = self.expression(node.value, times)
            self._need(live + need + self._store(node.buffer, node.indices[0], node.value, times))
        elif isinstance(node, Evaluate) and isinstance(node.value, Call):
            self._need(live + self.expression(node.value, times))
        elif not isinstance(node, DeclBuffer | Evaluate):
            raise ValueError(f"a statement of type {type(node).__name__} has no estimate")
        return 0

    def _need(self, registers: int) -> None:
        self.count.registers = max(self.count.registers, registers)

    def _store(self, buffer: Var, index: Expr, value: Expr, times: int) -> int:
        if buffer.scope() == "local":
            return 0
        self._access(buffer, index, _bytes(value), times, stores=True)
        return _ADDRESS

    def _access(self, buffer: Var, index: Expr, nbytes: int, times: int, *, stores: bool) -> None:
        self.count.operations += (2 if not isinstance(index, IntImm | Var) else 1) * times
        self.accesses.append(Access(index, ceil(buffer.dtype.bits / 8), nbytes, times, stores))

    def expression(self, node: Expr, times: int) -> int:
        """Counts an expression; returns the registers that it needs while it is evaluated."""
        if isinstance(node, TensorLoad):
            if node.source.scope() == "local":
                return 0
            self._access(node.source, node.indices[0], _bytes(node), times, stores=False)
            return _registers(node) + _ADDRESS
        if isinstance(node, Call):
            return self._call(node, times)
        operands = list(_operands(node))
        if not operands:
            return 0
        if not isinstance(node, Broadcast | Shuffle):
            self.count.operations += _instructions(node) * times
        return self._together(operands, times, _registers(node))

    def _call(self, node: Call, times: int) -> int:
        name = (
            str(node.args[0].value) if hasattr(node.args[0], "value") and not isinstance(node.args[0], IntImm) else ""
        )
        if name.startswith(("vload", "vstore")):
            buffer, index = node.args[-1].args[0].source, node.args[-1].args[0].indices[0]
            if name.startswith("vstore"):
                need = self.expression(node.args[1], times)
                return need + self._store(buffer, index, node.args[1], times)
            self._access(buffer, index, _bytes(node), times, stores=False)
            return _registers(node) + _ADDRESS
        arguments = [a for a in node.args if isinstance(a.ty, PrimType)]
        if name in _DOTS:
            self.count.operations += (self.products.once + self.products.row * _DOTS[name]) * times
            return self._together(arguments, times, _registers(node)) + self.products.registers
        if not name.startswith(_FREE):
            lanes = ceil(lanes_of(node) / 2) if name.startswith(_IN_PAIRS) else lanes_of(node)
            self.count.operations += _CALLS.get(name, 1) * lanes * times
        return self._together(arguments, times, _registers(node))

    def _together(self, operands: Sequence[Expr], times: int, result: int) -> int:
        """Registers for operands evaluated one after the other, those that need most beyond their size first."""
        needs = sorted(((self.expression(o, times), _held(o)) for o in operands), key=lambda n: n[1] - n[0])
        most, done = result, 0
        for need, held in needs:
            most = max(most, done + need)
            done += held
        return max(most, done)


def _operands(node: Expr) -> Iterator[Expr]:
    if isinstance(node, Shuffle):
        yield from node.vectors
        return
    for name in ("a", "b", "value", "condition", "true_value", "false_value"):
        operand = getattr(node, name, None)
        if isinstance(operand, Expr):
            yield operand


def _held(node: Expr) -> int:
    """Registers that hold an operand until it is used; those of temporaries and names are counted with them."""
    while isinstance(node, Broadcast):
        node = node.value
    named = isinstance(node, Var | IntImm) or (isinstance(node, TensorLoad) and node.source.scope() == "local")
    return 0 if named or (not list(_operands(node)) and not isinstance(node, Call | TensorLoad)) else _registers(node)


def _is_item(value: Expr) -> bool:
    return isinstance(value, Call) and "get_global_id" in str(value)


def _instructions(node: Expr) -> int:
    wide = node.ty.dtype.bits == 64 or (isinstance(node, Cast) and node.value.ty.dtype.bits == 64)
    return lanes_of(node) * (_WIDE_FACTOR if wide else 1)


def _registers(node: Expr) -> int:
    """Registers that a value takes: vectors of small integers four or two to a register."""
    dtype = node.ty.dtype
    return ceil(max(dtype.bits, 1) * lanes_of(node) / 32)


def _bytes(node: Expr) -> int:
    return ceil(node.ty.dtype.bits / 8) * lanes_of(node)
