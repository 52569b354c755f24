"""Functions with C linkage, from TIR or LLVM's own text to object code."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import tvm
from tvm import tirx
from tvm.ir import Expr, PointerType, PrimType
from tvm.runtime import Module
from tvm.target import Target
from tvm.tirx import PrimFunc, Stmt, Var


def int_function(parameters: Sequence[Var], statements: Sequence[Stmt]) -> PrimFunc:
    """A function of type `int32_t (...)` that executes `statements` and returns 0."""
    body = tirx.SeqStmt([*statements, tirx.Return(int32(0))])
    return PrimFunc(parameters, body, ret_type=PrimType("int32")).with_attr("s_tir", True)


def pointer(name: str, dtype: str) -> Var:
    return Var(name, PointerType(PrimType(dtype), "global"))


def int32(value: int) -> Expr:
    return tirx.const(value, "int32")


def generate(functions: Mapping[str, PrimFunc], target: Target) -> bytes:
    """Object code of functions whose parameters are pointers and numbers, by name."""
    return _object_code(_module(functions, target))


def _module(functions: Mapping[str, PrimFunc], target: Target) -> Module:
    named = {tvm.ir.GlobalVar(name): func.with_attr("global_symbol", name) for name, func in functions.items()}
    module = tirx.transform.BindTarget(target.with_host(target))(tvm.IRModule(named))
    for lowering in ("FP8StorageLegalize", "BF16StorageLegalize", "LowerTVMBuiltin", "LowerIntrin"):
        module = getattr(tirx.transform, lowering)()(module)
    return tvm.get_global_func("target.build.llvm")(module, target)


def assemble(text: str, target: Mapping[str, object]) -> bytes:
    """Object code of a module in LLVM's text form, for a target as `tvm.target.Target` takes it."""
    quoted = json.dumps(dict(target)).replace("\\", "\\5C").replace('"', "\\22")
    # Text without a layout of data would get LLVM's default one, whose pointers have 64 bits.
    empty = _module({"empty": int_function([], [tirx.Evaluate(int32(0))])}, Target(dict(target)))
    layout = next(line for line in empty.inspect_source("ll").splitlines() if line.startswith("target datalayout"))
    text = f"""\
{layout}
target triple = "{target["mtriple"]}"
{text}
!llvm.module.flags = !{{!0}}
!0 = !{{i32 2, !"tvm_target", !"{quoted}"}}
"""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.ll"
        path.write_text(text, encoding="ascii")
        return _object_code(tvm.get_global_func("ffi.Module.load_from_file.ll")(str(path), "ll"))


def _object_code(library: Module) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.o"
        library.write_to_file(str(path))
        return path.read_bytes()
