"""Text of one-op modules, for tests of dialects."""

from __future__ import annotations

import re

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.rewriting import verify_module
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.text import parse_module
from qcompiler.ir.values import body, dtype_of, shape

ALIASES = """\
!u = !quant.uniform<u8:f32, 5.0e-01:3>
!v = !quant.uniform<u8:f32, 2.5e-01:128>
!s = !quant.uniform<i8:f32, 5.0e-01:-1>
!p = !quant.uniform<u8:f32, 3.90625e-03>
!h = !quant.uniform<i16:f32, 1.0e-02>
!k = !quant.uniform<u8:f32:1, {5.0e-01:3, 2.5e-01:3}>
!c = !quant.uniform<i8<-127:127>:f32:0, {1.0e-01, 2.0e-01}>
!b = !quant.uniform<i8:f32:{0:1, 1:2}, {{1.0e-01, 2.0e-01}, {3.0e-01, 4.0e-01}}>
"""


def module_of(operation: str) -> str:
    """A module around one operation in generic form, whose operands become the function's arguments."""
    match = re.fullmatch(r'"([\w.]+)"\((.*?)\)(.*) : \((.*)\) -> (.*)', operation.strip(), re.DOTALL)
    assert match is not None, operation
    names = [name.strip() for name in match[2].split(",") if name.strip()]
    kinds = split_types(match[4])
    results = split_types(match[5].removeprefix("(").removesuffix(")"))
    arguments = ", ".join(f"{name}: {kind}" for name, kind in dict(zip(names, kinds, strict=True)).items())
    made = ", ".join(f"%r{i}" for i in range(len(results)))
    assign = f"{made} = " if results else ""
    returned = f"func.return {made} : {', '.join(results)}" if results else "func.return"
    return (
        f"{ALIASES}func.func @main({arguments}) -> ({', '.join(results)}) {{\n"
        f"  {assign}{operation.strip()}\n  {returned}\n}}\n"
    )


def split_types(text: str) -> list[str]:
    """Types separated by commas, those inside angle brackets and braces left alone."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "<{") - (character in ">}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def checked(text: str) -> ModuleOp:
    """The module of a text, parsed and verified."""
    module = parse_module(text)
    verify_module(module)
    return module


def operation_of(operation: str) -> Operation:
    """The verified operation of `module_of`."""
    first = body(checked(module_of(operation))).first_op
    assert first is not None
    return first


def invented(module: ModuleOp, seed: int = 0) -> ConstantStore:
    """A store with an array of the right type for every constant of a module: the same for the same text."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for op in module.walk():
        if isinstance(op, ConstantOp) and op.resource not in arrays:
            dtype, extents = dtype_of(op.y), shape(op.y)
            if dtype.kind == "f":
                arrays[op.resource] = rng.normal(0, 0.5, extents).astype(dtype)
            elif dtype.itemsize == 1:
                arrays[op.resource] = rng.integers(1 if dtype.kind == "u" else -127, 127, extents).astype(dtype)
            else:
                arrays[op.resource] = np.zeros(extents, dtype)
    return ConstantStore(arrays)
