"""A program of hand-written kernels with its reference in numpy, for tests of what follows lowering."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm.script import tirx as T

from qcompiler.lowering.program import Buffer, Kernel, Program, Step

TARGET = {"kind": "llvm", "mtriple": "x86_64-linux-gnu"}


@T.prim_func(s_tir=True)
def scale(X: T.Buffer((4, 256), "uint8"), M: T.Buffer((256,), "uint8"), Y: T.Buffer((4, 256), "uint8")):
    P = T.sblock_alloc_buffer((4, 256), "int32")
    for i, j in T.grid(4, 256):
        with T.sblock("multiply"):
            vi, vj = T.axis.remap("SS", [i, j])
            P[vi, vj] = T.cast(X[vi, vj], "int32") * T.cast(M[vj], "int32")
    for i, j in T.grid(4, 256):
        with T.sblock("narrow"):
            vi, vj = T.axis.remap("SS", [i, j])
            Y[vi, vj] = T.cast(T.min(P[vi, vj] // 16, 255), "uint8")


@T.prim_func(s_tir=True)
def add(
    A: T.Buffer((1024,), "uint8"),
    B: T.Buffer((1024,), "uint8"),
    Y: T.Buffer((1024,), "uint8"),
    S: T.Buffer((1024,), "int32"),
):
    for i in T.parallel(1024):
        with T.sblock("sum"):
            vi = T.axis.spatial(1024, i)
            S[vi] = T.cast(A[vi], "int32") + T.cast(B[vi], "int32")
    for i in range(1024):
        with T.sblock("narrow"):
            vi = T.axis.spatial(1024, i)
            Y[vi] = T.cast(T.min(S[vi], 255), "uint8")


@T.prim_func(s_tir=True)
def dequantize(X: T.Buffer((4, 256), "uint8"), Y: T.Buffer((4, 256), "float32")):
    for i, j in T.grid(4, 256):
        with T.sblock("dequantize"):
            vi, vj = T.axis.remap("SS", [i, j])
            Y[vi, vj] = T.cast(X[vi, vj], "float32") * T.float32(0.3) + T.float32(0.1)


Reference = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


def small_program() -> tuple[Program, Reference]:
    """Inputs `x` and `z` (u8), outputs `y` (u8) and `real` (f32); `a` to `d` are in the arena."""
    rng = np.random.default_rng(0)
    m1, m2 = (rng.integers(0, 40, 256, dtype=np.uint8) for _ in range(2))
    shape = (4, 256)
    buffers = {name: Buffer(name, shape, "uint8") for name in ("x", "z", "a", "b", "c", "d", "y")}
    buffers["real"] = Buffer("real", shape, "float32")
    adding = Kernel(add, "add", (), (((1024,), "int32"),))
    steps = [
        Step(Kernel(scale, "scale", (m1,)), ("x",), ("a",), "node1"),
        Step(Kernel(scale, "scale", (m2,)), ("a",), ("b",), "node2"),
        Step(adding, ("a", "b"), ("c",), "node3"),
        Step(adding, ("c", "z"), ("y",), "node4"),
        Step(Kernel(scale, "scale", (m1.copy(),)), ("y",), ("d",), "node5"),
        Step(Kernel(dequantize, "dequantize"), ("d",), ("real",), "node6"),
    ]

    def reference(x: np.ndarray, z: np.ndarray) -> dict[str, np.ndarray]:
        a = np.minimum(x.astype(np.int32) * m1 // 16, 255)
        b = np.minimum(a * m2 // 16, 255)
        c = np.minimum(a + b, 255)
        y = np.minimum(c + z, 255)
        d = np.minimum(y * m1 // 16, 255)
        values = {name: v.astype(np.uint8) for name, v in {"a": a, "b": b, "c": c, "y": y, "d": d}.items()}
        return {**values, "real": d.astype(np.float32) * np.float32(0.3) + np.float32(0.1)}

    return Program(buffers, ["x", "z"], ["y", "real"], steps), reference
