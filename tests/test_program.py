"""The memory plan, the rewrites of kernels, and the object files."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from small_program import TARGET, add, scale, small_program
from tvm.script import tirx as T

from qcompiler.bundle.link import link_shared
from qcompiler.errors import TargetError
from qcompiler.lowering.aot import build_object, pack_weights
from qcompiler.lowering.contraction import ALLOW_CONTRACTION, forbid_contraction
from qcompiler.lowering.hoist import hoist_allocations
from qcompiler.lowering.memory import align, plan_memory, scratch_name
from qcompiler.lowering.program import ALIGNMENT, SLACK, Buffer, Kernel, Program, Step

LIBC = {"memcpy", "memset", "memmove"}
LIBM = {
    f"{name}{suffix}"
    for name in [
        "exp",
        "exp2",
        "log",
        "log2",
        "log10",
        "log1p",
        "sin",
        "cos",
        "tan",
        "tanh",
        "sinh",
        "cosh",
        "asin",
        "acos",
        "atan",
        "atan2",
        "erf",
        "pow",
        "sqrt",
        "floor",
        "ceil",
        "trunc",
        "round",
        "rint",
        "nearbyint",
        "lrint",
        "fmod",
        "fma",
        "fmax",
        "fmin",
        "hypot",
    ]
    for suffix in ("", "f")
}


@pytest.fixture(scope="module")
def compiled():
    return build_object(small_program()[0], TARGET)


def chain(sizes: list[int], extra_readers: list[int], scratch: list[int]) -> Program:
    """Step `i` reads buffers `i-1` and `i-1-extra_readers[i]` and writes buffer `i` of `sizes[i]` bytes."""
    names = [f"b{i}" for i in range(len(sizes))]
    buffers = {name: Buffer(name, (size,), "uint8") for name, size in zip(names, sizes, strict=True)}
    steps = []
    for i in range(1, len(sizes)):
        reads = {names[i - 1], names[max(0, i - 1 - extra_readers[i])]}
        kernel = Kernel(None, "none", (), (((scratch[i],), "uint8"),) if scratch[i] else ())
        steps.append(Step(kernel, tuple(sorted(reads)), (names[i],), f"node{i}"))
    return Program(buffers, [names[0]], [names[-1]], steps)


def intervals(program: Program, reuse: bool) -> dict[str, tuple[int, int, int]]:
    """Bytes, first step and last step of every buffer in the arena, found by looking at every step."""
    found = {}
    for name, buffer in program.buffers.items():
        if name in program.external:
            continue
        uses = [i for i, s in enumerate(program.steps) if name in s.inputs or name in s.outputs]
        found[name] = (buffer.nbytes, uses[0], uses[-1]) if reuse else (buffer.nbytes, 0, len(program.steps))
    for i, step in enumerate(program.steps):
        for j, (shape, _) in enumerate(step.kernel.scratch):
            found[scratch_name(i, j)] = (shape[0], i, i)
    return found


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 40), st.booleans())
def test_no_two_live_buffers_overlap(data, steps, reuse):
    def numbers(limit):
        return data.draw(st.lists(st.integers(0, limit), min_size=steps, max_size=steps))

    program = chain(numbers(5000), numbers(6), numbers(900))
    plan = plan_memory(program, reuse=reuse)
    live = intervals(program, reuse)
    assert set(plan.offsets) == set(live)
    placed = [(plan.offsets[n], plan.offsets[n] + nbytes + SLACK, a, b) for n, (nbytes, a, b) in live.items()]
    for i, (begin, end, first, last) in enumerate(placed):
        assert begin % ALIGNMENT == 0
        assert end <= plan.arena_bytes
        for other_begin, other_end, other_first, other_last in placed[:i]:
            if first <= other_last and other_first <= last:
                assert end <= other_begin or other_end <= begin
    moments = range(len(program.steps) + 1)
    needed = max(sum(align(n + SLACK) for n, a, b in live.values() if a <= t <= b) for t in moments)
    assert plan.lower_bound == needed <= plan.arena_bytes


@pytest.mark.parametrize("seed", range(5))
def test_arena_is_near_the_lower_bound(seed):
    """Shapes of an image network: sizes halve at each stage, residual sums read an older buffer."""
    rng = np.random.default_rng(seed)
    sizes = [int(200_000 * rng.choice([1, 2, 6]) / 2 ** (i // 12)) for i in range(60)]
    plan = plan_memory(chain(sizes, list(rng.choice([0, 0, 2, 3], 60)), [0] * 60))
    assert plan.arena_bytes <= 1.2 * plan.lower_bound


def test_reading_past_the_plan_is_impossible():
    program, _ = small_program()
    plan = plan_memory(program, reuse=False)
    ends = [offset + program.buffers[n].nbytes for n, offset in plan.offsets.items() if n in program.buffers]
    assert max(ends) + SLACK <= plan.arena_bytes


def test_identical_constants_are_stored_once():
    program, _ = small_program()
    weights = pack_weights(program)
    first, second, fifth = (weights.offsets[i][0] for i in (0, 1, 4))
    assert first == fifth != second
    assert all(offset % ALIGNMENT == 0 for row in weights.offsets for offset in row)
    for step, row in zip(program.steps, weights.offsets, strict=True):
        for constant, offset in zip(step.kernel.constants, row, strict=True):
            assert (weights.blob[offset : offset + constant.nbytes] == constant.view(np.uint8)).all()
    assert weights.blob.size == 2 * 256 + SLACK


def test_equal_kernels_are_emitted_once(compiled):
    assert compiled.kernels == 3


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm (binutils) is not installed")
def test_object_needs_nothing_but_libc_and_libm(compiled, tmp_path):
    symbols = ""
    for number, code in enumerate(compiled.objects):
        path = tmp_path / f"{number}.o"
        path.write_bytes(code)
        symbols += subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
    defined = {line.split()[-1] for line in symbols.splitlines() if " T " in line}
    assert {line.split()[-1] for line in symbols.splitlines() if " U " in line} - defined <= LIBC | LIBM
    weak = {line.split()[-1] for line in symbols.splitlines() if re.search(r" [vw] ", line)}
    assert not weak
    entries = {name for name in defined if not name.startswith("model_kernel")}
    assert entries == {"model_run", "model_trace", "model_step"}


def test_cross_build_for_a_32_bit_target():
    program, _ = small_program()
    built = build_object(program, {"kind": "llvm", "mtriple": "armv7a-linux-gnueabihf"}, prefix="net")
    assert all(code[:5] == b"\x7fELF\x01" for code in built.objects)


def test_missing_linker(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TargetError, match=r"no linker found.*apt-get install gcc"):
        link_shared([tmp_path / "a.o"], tmp_path / "liba.so", ["a_run"])


def test_failing_linker(tmp_path):
    with pytest.raises(TargetError, match=r"linking .*liba.so failed"):
        link_shared([tmp_path / "missing.o"], tmp_path / "liba.so", ["a_run"])


@T.prim_func(s_tir=True)
def cumulative(X: T.Buffer((600,), "float32"), Y: T.Buffer((600,), "float32")):
    small = T.sblock_alloc_buffer((4,), "float32")
    large = T.sblock_alloc_buffer((600,), "float32")
    for i in range(4):
        with T.sblock("small"):
            vi = T.axis.spatial(4, i)
            small[vi] = X[vi] * T.float32(2)
    for i in range(600):
        with T.sblock("large"):
            vi = T.axis.spatial(600, i)
            large[vi] = X[vi] + small[vi % 4]
    for i in range(600):
        with T.sblock("out"):
            vi = T.axis.spatial(600, i)
            Y[vi] = large[599 - vi]


def test_hoist_takes_large_allocations_only():
    lowered = tvm.s_tir.transform.LowerOpaqueBlock()(
        tvm.s_tir.transform.ConvertBlocksToOpaque()(tvm.IRModule({"main": cumulative}))
    )["main"]
    func, scratch = hoist_allocations(lowered)
    assert scratch == (((2400,), "uint8"),)
    assert [p.name for p in func.params] == ["X", "Y", "large"]
    assert "alloc_buffer((4,)" in func.script()
    again, nothing = hoist_allocations(func)
    assert nothing == ()
    assert again.same_as(func)


@T.prim_func(s_tir=True)
def tile(X: T.Buffer((320,), "float32"), Y: T.Buffer((320,), "float32")):
    with T.sblock("tile"):
        A = T.sblock_alloc_buffer((320,), "float32", scope="local")
        for i in T.unroll(20):
            A[T.ramp(i * 16, 1, 16)] = X[T.ramp(i * 16, 1, 16)]
        for _ in range(7):
            for j in T.unroll(20):
                A[T.ramp(j * 16, 1, 16)] = A[T.ramp(j * 16, 1, 16)] * X[T.ramp(j * 16, 1, 16)]
        for i in T.unroll(20):
            Y[T.ramp(i * 16, 1, 16)] = A[T.ramp(i * 16, 1, 16)]


def test_large_local_tiles_stay_on_the_stack():
    buffers = {name: Buffer(name, (320,), "float32") for name in "xy"}
    program = Program(buffers, ["x"], ["y"], [Step(Kernel(tile, "tile"), ("x",), ("y",), "node")])
    built = build_object(program, {**TARGET, "mcpu": "skylake-avx512"})
    assert built.plan.arena_bytes == 0
    assert not any(b"TVMBackend" in code for code in built.objects)


@T.prim_func(s_tir=True)
def multiply_add(
    X: T.Buffer((64,), "float32"),
    M: T.Buffer((64,), "float32"),
    Y: T.Buffer((64,), "float32"),
    Q: T.Buffer((64,), "int32"),
):
    for i in T.vectorized(64):
        with T.sblock("both"):
            vi = T.axis.spatial(64, i)
            Y[vi] = X[vi] * M[vi] + T.float32(1.5)
            Q[vi] = T.cast(X[vi] * M[vi], "int32")


def assembly(func, mtriple: str, mcpu: str) -> str:
    target = tvm.target.Target({"kind": "llvm", "mtriple": mtriple, "mcpu": mcpu})
    return tvm.tirx.build(func, target).inspect_source("asm")


@pytest.mark.parametrize("target", [("x86_64-linux-gnu", "skylake-avx512"), ("aarch64-linux-gnu", "cortex-a76")])
def test_products_and_sums_are_not_fused(target):
    fused = re.compile(r"\b(vfmadd\w*|fmla|fmadd)\b")
    assert fused.search(assembly(multiply_add, *target))
    assert not fused.search(assembly(forbid_contraction(multiply_add), *target))
    allowed = multiply_add.with_attr(ALLOW_CONTRACTION, 1)
    assert forbid_contraction(allowed).same_as(allowed)


def test_only_products_that_could_be_fused_are_fenced():
    text = forbid_contraction(multiply_add).script()
    assert text.count("llvm.arithmetic.fence") == 1
    assert forbid_contraction(forbid_contraction(multiply_add)).script() == text


def changed(**changes) -> Program:
    program, _ = small_program()
    return replace(program, **changes)


def with_step(index: int, **changes) -> Program:
    program, _ = small_program()
    program.steps[index] = replace(program.steps[index], **changes)
    return program


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (changed(inputs=["x", "z", "w"]), "'w' has no buffer"),
        (changed(outputs=["y", "x"]), "must be distinct"),
        (changed(outputs=["y", "y"]), "must be distinct"),
        (changed(steps=[]), "no step writes the program output 'y'"),
        (with_step(1, inputs=("c",)), "'node2' reads 'c' before any step has written it"),
        (with_step(1, outputs=("a",)), "'node2' writes 'a', which already holds a value"),
        (with_step(1, outputs=("q",)), "names the buffer 'q', which does not exist"),
        (with_step(0, kernel=Kernel(scale, "scale")), "3 parameters for 2 arguments"),
        (
            with_step(0, kernel=Kernel(scale, "scale", (np.zeros(256, np.int8),))),
            "parameter M is uint8.* but constant 0 is int8",
        ),
        (
            with_step(2, kernel=Kernel(add, "add", (), (((1025,), "int32"),))),
            "parameter S is int32.1024., but scratch 0 is int32.1025.",
        ),
    ],
)
def test_malformed_programs_are_refused(program, message):
    with pytest.raises(ValueError, match=message):
        program.check()
