from __future__ import annotations

import ctypes
import subprocess

import numpy as np
import pytest
from tvm.script import tirx as T

from qcompiler.lowering.aot import build_object, link_shared
from qcompiler.lowering.program import Buffer, Kernel, Program, Step

TARGET = {"kind": "llvm", "mtriple": "x86_64-linux-gnu"}


@T.prim_func(s_tir=True)
def scale(X: T.Buffer((4, 256), "uint8"), M: T.Buffer((256,), "uint8"), Y: T.Buffer((4, 256), "uint8")):
    B = T.sblock_alloc_buffer((4, 256), "int32")
    for i, j in T.grid(4, 256):
        with T.sblock("multiply"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = T.cast(X[vi, vj], "int32") * T.cast(M[vj], "int32")
    for i, j in T.grid(4, 256):
        with T.sblock("narrow"):
            vi, vj = T.axis.remap("SS", [i, j])
            Y[vi, vj] = T.cast(T.min(B[vi, vj] // 16, 255), "uint8")


@T.prim_func(s_tir=True)
def add(
    A: T.Buffer((1024,), "uint8"),
    B: T.Buffer((1024,), "uint8"),
    Y: T.Buffer((1024,), "uint8"),
    S: T.Buffer((1024,), "int32"),
):
    for i in range(1024):
        with T.sblock("sum"):
            vi = T.axis.spatial(1024, i)
            S[vi] = T.cast(A[vi], "int32") + T.cast(B[vi], "int32")
    for i in range(1024):
        with T.sblock("narrow"):
            vi = T.axis.spatial(1024, i)
            Y[vi] = T.cast(T.min(S[vi], 255), "uint8")


def small_program():
    rng = np.random.default_rng(0)
    m1, m2 = (rng.integers(0, 40, 256, dtype=np.uint8) for _ in range(2))
    buffers = {n: Buffer(n, (4, 256), "uint8") for n in ("x", "a", "b", "y")}
    steps = [
        Step(Kernel(scale, "default", (m1,)), ("x",), ("a",), "node1"),
        Step(Kernel(scale, "default", (m2,)), ("a",), ("b",), "node2"),
        Step(Kernel(add, "default", (), (((1024,), "int32"),)), ("a", "b"), ("y",), "node3"),
    ]

    def reference(x):
        a = np.minimum(x.astype(np.int32) * m1 // 16, 255)
        b = np.minimum(a * m2 // 16, 255)
        return {"a": a, "b": b, "y": np.minimum(a + b, 255)}

    return Program(buffers, ["x"], ["y"], steps), reference


def test_it(tmp_path):
    program, reference = small_program()
    built = build_object(program, TARGET)
    (tmp_path / "m.o").write_bytes(built.object_code)
    link_shared([tmp_path / "m.o"], tmp_path / "m.so")
    print(subprocess.run(["nm", tmp_path / "m.o"], capture_output=True, text=True).stdout)
    print(built.plan, built.trace_plan, built.kernels)
    lib = ctypes.CDLL(str(tmp_path / "m.so"))
    x = np.random.default_rng(1).integers(0, 256, (4, 256), dtype=np.uint8)
    y = np.zeros_like(x)
    arena = np.zeros(built.trace_plan.arena_bytes, np.uint8)
    P = ctypes.c_void_p
    for f in (lib.model_run, lib.model_trace):
        y[:] = 0
        r = f(
            (P * 1)(x.ctypes.data),
            (P * 1)(y.ctypes.data),
            P(built.weights.blob.ctypes.data),
            P(arena.ctypes.data),
        )
        assert r == 0
        assert (y == reference(x)["y"]).all()
