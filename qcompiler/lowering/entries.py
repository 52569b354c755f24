"""The C entries of a compiled program; `aot` says what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm import tirx
from tvm.ir import Expr, PointerType, PrimType
from tvm.tirx import PrimFunc, Stmt, Var

from .aot import Call, Place
from .native import int32, int_function, pointer

_LAUNCHER = """\
%arguments = type {{ ptr, ptr, ptr, ptr, i32 }}

@{prefix}_parallel_launch = global ptr null

declare i32 @{prefix}_part(ptr, ptr, ptr, ptr, i32, i32, i32)

define internal void @task(ptr %context, i32 %task, i32 %tasks) {{
  %all = load %arguments, ptr %context
  %inputs = extractvalue %arguments %all, 0
  %outputs = extractvalue %arguments %all, 1
  %weights = extractvalue %arguments %all, 2
  %arena = extractvalue %arguments %all, 3
  %part = extractvalue %arguments %all, 4
  call i32 @{prefix}_part(ptr %inputs, ptr %outputs, ptr %weights, ptr %arena, i32 %part, i32 %task, i32 %tasks)
  ret void
}}

define i32 @{prefix}_launch(ptr %inputs, ptr %outputs, ptr %weights, ptr %arena, i32 %part) {{
  %context = alloca %arguments
  %first = insertvalue %arguments poison, ptr %inputs, 0
  %second = insertvalue %arguments %first, ptr %outputs, 1
  %third = insertvalue %arguments %second, ptr %weights, 2
  %fourth = insertvalue %arguments %third, ptr %arena, 3
  %all = insertvalue %arguments %fourth, i32 %part, 4
  store %arguments %all, ptr %context
  %launcher = load ptr, ptr @{prefix}_parallel_launch
  %none = icmp eq ptr %launcher, null
  br i1 %none, label %serial, label %parallel

serial:
  call void @task(ptr %context, i32 0, i32 1)
  ret i32 0

parallel:
  call void %launcher(ptr @task, ptr %context)
  ret i32 0
}}
"""


def launcher_text(prefix: str) -> str:
    """LLVM's text of `{prefix}_launch`, which gives a part to the launcher, or executes it where there is none."""
    return _LAUNCHER.format(prefix=prefix)


class Entries:
    """Makes entries for the prefix `prefix` and the calls of a program.

    `word` is the integer type as wide as a pointer: TIR has no type for a pointer in memory, and converts only 64-bit
    integers to pointers.
    """

    def __init__(self, prefix: str, word: str) -> None:
        self.prefix = prefix
        self.types = {"inputs": word, "outputs": word, "weights": "uint8", "arena": "uint8"}

    def run(self, calls: Sequence[Call], *, launch: bool) -> PrimFunc:
        """Makes all calls. Shared parts go to the launcher if `launch`, else they are executed at once."""
        entry = _Entry(self.types)
        return entry.function([s for number in range(len(calls)) for s in self._step(entry, calls, number, launch)])

    def step(self, calls: Sequence[Call]) -> PrimFunc:
        """Makes the call whose number is a further argument."""
        entry = _Entry(self.types)
        chosen = Var("step", "int32")
        bodies = (self._step(entry, calls, number, launch=True) for number in range(len(calls)))
        return entry.function([_when(chosen, number, body) for number, body in enumerate(bodies)], chosen)

    def part(self, calls: Sequence[Call]) -> PrimFunc:
        """Executes a task of a shared part: further arguments are number of the part, of the task, and of all tasks."""
        entry = _Entry(self.types)
        numbers = chosen, task, tasks = [Var(name, "int32") for name in ("part", "task", "tasks")]
        statements = [
            _when(chosen, index, [entry.call(calls[number], int32(part), task, tasks)])
            for index, (number, part) in enumerate(_shared(calls))
        ]
        return entry.function(statements, *numbers)

    def _step(self, entry: _Entry, calls: Sequence[Call], number: int, launch: bool) -> list[Stmt]:
        call = calls[number]
        if not call.is_shared:
            return [entry.call(call)]
        statements = []
        for part, shared in enumerate(call.parts):
            if shared and launch:
                index = int32(_shared(calls).index((number, part)))
                value = tirx.call_extern("int32", f"{self.prefix}_launch", *entry.pointers.values(), index)
                statements.append(tirx.Evaluate(value))
            else:
                statements.append(entry.call(call, int32(part), int32(0), int32(1)))
        return statements


class _Entry:
    """Parameters of one entry, and calls of kernels with pointers into what they point to."""

    def __init__(self, types: Mapping[str, str]) -> None:
        self.pointers = {name: pointer(name, dtype) for name, dtype in types.items()}
        # Offsets are added to the address of the first element, so that the extents do not matter.
        self.views = {name: tirx.decl_buffer((1,), dtype, name=f"{name}_view") for name, dtype in types.items()}

    def call(self, call: Call, *numbers: Expr) -> Stmt:
        arguments = [self._address(place) for place in call.arguments]
        return tirx.Evaluate(tirx.call_extern("int32", call.symbol, *arguments, *numbers))

    def function(self, statements: Sequence[Stmt], *numbers: Var) -> PrimFunc:
        declared = [tirx.DeclBuffer(self.views[name], data=value) for name, value in self.pointers.items()]
        return int_function([*self.pointers.values(), *numbers], [*declared, *statements])

    def _address(self, place: Place) -> Expr:
        element = tirx.BufferLoad(self.views[place.base], [tirx.const(place.position, "int64")])
        if place.base in ("weights", "arena"):
            return tirx.address_of(element)
        return tirx.reinterpret(PointerType(PrimType("uint8"), "global"), element.astype("uint64"))


def _shared(calls: Sequence[Call]) -> list[tuple[int, int]]:
    """Call and part of each shared part of a program, in order."""
    return [(n, part) for n, call in enumerate(calls) for part, shared in enumerate(call.parts) if shared]


def _when(variable: Var, value: int, statements: Sequence[Stmt]) -> Stmt:
    body = statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))
    return tirx.IfThenElse(variable.equal(value), body, None)
