"""Programs for OpenCL devices: source, launches and the integers that they give on PoCL."""

from __future__ import annotations

import pytest
from opencl_device import EMULATED_DOT, NO_DOT, differences, missing
from small_graphs import Graph, feeds_of

import qcompiler
from qcompiler.errors import PipelineError, TargetError
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.lowering.device import RANGE_ALIGNMENT
from qcompiler.lowering.lower import Lowering, lower
from qcompiler.lowering.opencl import build_device_program
from qcompiler.lowering.opencl_prelude import check_source
from qcompiler.targets.spec import resolve_target

SPEC = resolve_target("mali")


@pytest.fixture(scope="module")
def residual() -> tuple[Lowering, dict]:
    """A residual block with pooling and a product, lowered, and an input."""
    g = Graph(x=(1, 3, 9, 7))
    first = g("Relu", g("Conv", "x", g.weight(8, 3, 3, 3), pads=[1, 1, 1, 1]))
    second = g("Conv", first, g.weight(8, 8, 3, 3), pads=[1, 1, 1, 1])
    pooled = g("GlobalAveragePool", g("Add", first, second))
    proto = g.proto(g("Gemm", g("Flatten", pooled), g.weight(8, 5)))
    feeds = feeds_of(proto)
    quantized = qcompiler.quantize(import_graph(proto), feeds, target="mali")
    return lower(quantized.model, SPEC), feeds[0]


@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.parametrize("options", [NO_DOT, EMULATED_DOT], ids=["plain", "dot"])
def test_program_gives_the_interpreters_integers(residual: tuple[Lowering, dict], options: tuple[str, ...]) -> None:
    lowering, feed = residual
    device = build_device_program(lowering.program, SPEC)
    count, found = differences(lowering, device, feed, options)
    assert count >= 6
    assert found == []


def test_launches_lie_in_their_blocks(residual: tuple[Lowering, dict]) -> None:
    lowering, _ = residual
    device = build_device_program(lowering.program, SPEC)
    sizes = {"weights": device.weights.blob.size, "arena": device.plan.arena_bytes}
    for launch in device.launches:
        assert all(g % n == 0 for g, n in zip(launch.global_size, launch.local_size, strict=True))
        for r in launch.arguments:
            if r.base in sizes:
                assert r.position % RANGE_ALIGNMENT == 0
                assert r.position + r.nbytes <= sizes[r.base]
                assert r.base == "weights" or r.trace_position + r.nbytes <= device.trace_plan.arena_bytes
    assert {launch.step for launch in device.launches} == set(range(len(lowering.program.steps)))


def test_work_groups_can_be_given(residual: tuple[Lowering, dict]) -> None:
    lowering, _ = residual
    name = build_device_program(lowering.program, SPEC).launches[0].kernel
    device = build_device_program(lowering.program, SPEC, {name: (8, 2, 1)})
    assert device.launches[0].local_size == (8, 2, 1)


def test_work_groups_that_no_kernel_has(residual: tuple[Lowering, dict]) -> None:
    lowering, _ = residual
    names = [launch.kernel for launch in build_device_program(lowering.program, SPEC).launches]
    with pytest.raises(PipelineError, match=f"kernel {names[0]}x, .* did you mean {names[0]}"):
        build_device_program(lowering.program, SPEC, {f"{names[0]}x": (8, 2, 1)})
    with pytest.raises(PipelineError, match=f"for kernel {names[-1]}, whose work-items have . dimensions"):
        build_device_program(lowering.program, SPEC, {names[-1]: (1, 1, 2)})


@pytest.mark.parametrize(
    "line",
    [
        "v = ((0x000000ff << 0) & (a[0] << 0));",
        "float x = y + 1.258291e+07f;",
        "int4 v = int4(1, 2, 3, 4);",
        "__local int a[4];",
        "barrier(CLK_LOCAL_MEM_FENCE);",
    ],
)
def test_source_with_a_known_fault_is_refused(line: str) -> None:
    with pytest.raises(TargetError, match="fault of a schedule rule"):
        check_source(f"__kernel void k() {{\n  {line}\n}}\n")
