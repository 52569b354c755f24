"""Bundles for Hexagon: what is in the objects, how they run in the emulator, and what it counts."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from emulated import missing_tools
from small_graphs import Graph, feeds_of
from test_threads import quickly_quantized

import qcompiler
from qcompiler.bundle import EmulatedBundle, load_emulated
from qcompiler.bundle.link import c_library
from qcompiler.cli import main
from qcompiler.report.packets import count_packets
from qcompiler.targets.hexagon.instructions import hardware_loops, packets_of
from qcompiler.targets.hexagon.spec import VERSIONS
from qcompiler.targets.spec import resolve_target
from qcompiler.verify import integer_program

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits"
DOCUMENTED = re.compile(
    r"mem(cpy|set|move)|__hexagon_(u?(div|mod)[sd]i3|div[sd]f3|memcpy_\w+)|expf|(__hexagon_)?sqrtf|floorf|model_\w+"
)
"""Functions that objects may need, as docs/hexagon.md lists them, and each other's."""

pytestmark = pytest.mark.skipif(bool(missing_tools("hexagon")), reason=missing_tools("hexagon") or "-")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> EmulatedBundle:
    """The digit classifier."""
    output = tmp_path_factory.mktemp("hexagon") / "OUT"
    calibration = DIGITS / "calibration.npz"
    qcompiler.compile(DIGITS / "digits.onnx", calibration=calibration, output=output, limit=8, target="hexagon")
    return load_emulated(output)


def image() -> np.ndarray:
    return np.random.default_rng(0).random((1, 1, 8, 8), np.float32)


def expected(bundle: EmulatedBundle) -> np.ndarray:
    return qcompiler.interpret(integer_program(bundle), {"image": image()})["logits"]


def objdump(bundle: EmulatedBundle, file: Path, *options: str) -> str:
    command = bundle.toolchain.find("disassembler", bundle.toolchain.disassemblers)
    return subprocess.run([*command, *options, str(file)], capture_output=True, text=True, check=True).stdout


def test_the_emulator_gives_the_integers_of_the_interpreter(bundle: EmulatedBundle) -> None:
    assert np.array_equal(bundle.run({"image": image()})["logits"], expected(bundle))
    data = str(DIGITS / "calibration.npz")
    assert main(["verify", str(bundle.path), "--emulate", "--data", data, "--limit", "2"]) == 0


def test_the_example_runs(bundle: EmulatedBundle, tmp_path: Path) -> None:
    image().tofile(tmp_path / "image.f32")
    command = [*bundle.toolchain.compiler, "-O2", "-static", "-o", "example", str(bundle.path / "main.c")]
    command += [str(bundle.path / "libmodel.a"), *c_library(bundle.toolchain)]
    subprocess.run(command, cwd=tmp_path, check=True)
    call = [*bundle.toolchain.emulator, "./example", str(bundle.path / "weights.bin"), "image.f32", "logits.f32"]
    subprocess.run(call, cwd=tmp_path, check=True)
    assert (tmp_path / "logits.f32").read_bytes() == expected(bundle).tobytes()
    done = subprocess.run(call[:-1], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("weights.bin INPUT... OUTPUT... (1 inputs, 1 outputs)\n")


def test_objects_need_documented_functions_alone_and_allocate_nothing(bundle: EmulatedBundle) -> None:
    for library, option in (("libmodel.a", "-t"), ("libmodel.so", "-T")):
        symbols = re.findall(r"\*UND\*\s+\S+\s+(\S+)", objdump(bundle, bundle.path / library, option))
        assert not [name for name in symbols if not DOCUMENTED.fullmatch(name)]


def test_every_buffer_is_aligned_to_a_vector(bundle: EmulatedBundle) -> None:
    manifest = bundle.manifest
    assert manifest.alignment == 128
    assert "MODEL_ALIGNMENT 128" in (bundle.path / "model.h").read_text(encoding="utf-8")
    assert all(buffer.offset is None or buffer.offset % 128 == 0 for buffer in manifest.buffers.values())
    assert manifest.weight_bytes % 128 == manifest.arena_bytes % 128 == 0


def test_vectors_on_the_stack_are_aligned(bundle: EmulatedBundle) -> None:
    """An aligned access drops the low bits of its address: a function with vectors on its stack rounds it down."""
    functions: dict[str, list[str]] = {}
    listed = 0
    for packet in packets_of(objdump(bundle, bundle.path / "libmodel.a", "-d", "--no-show-raw-insn")):
        functions.setdefault(packet.function, []).extend(packet.instructions)
    for name, instructions in functions.items():
        if any("vmem(r29" in text for text in instructions):
            listed += 1
            assert any(re.search(r"r29 = and\(r29,#-0x(80|100)\)", text) for text in instructions), name
    assert listed


@pytest.mark.slow
def test_shared_work_gives_the_same_bytes(tmp_path: Path) -> None:
    """Tasks of a launcher in turn: what several vector contexts would compute."""
    g = Graph(x=(1, 3, 40, 40))
    y = g("Relu", g("Conv", "x", g.weight(64, 3, 3, 3), g.weight(64), pads=[1, 1, 1, 1]))
    proto = g.proto(g("Add", y, g("Conv", y, g.weight(64, 1, 3, 3), pads=[1, 1, 1, 1], group=64)))
    onnx.save(proto, tmp_path / "model.onnx")
    feeds = feeds_of(proto, 2)
    quantized = quickly_quantized(tmp_path / "model.onnx", feeds, "hexagon")
    qcompiler.compile(quantized, output=tmp_path / "one", target="hexagon")
    qcompiler.compile(quantized, output=tmp_path / "many", target="hexagon", threads=True)
    one, many = load_emulated(tmp_path / "one"), load_emulated(tmp_path / "many")
    assert "one after the other" in (many.path / "parallel.c").read_text(encoding="utf-8")
    expected = [list(one.run(feed).values()) for feed in feeds]
    symbols = re.findall(r"\*UND\*\s+\S+\s+(\S+)", objdump(many, many.path / "libmodel.so", "-T"))
    assert not [name for name in symbols if not DOCUMENTED.fullmatch(name)]
    assert "model_launch" in objdump(many, many.path / "libmodel.a", "-r")
    for tasks in (1, 2, 7):
        many.set_threads(tasks)
        for feed, arrays in zip(feeds, expected, strict=True):
            assert [a.tobytes() for a in many.run(feed).values()] == [a.tobytes() for a in arrays]


def test_bench_counts_packets(bundle: EmulatedBundle, capsys: pytest.CaptureFixture[str]) -> None:
    counts = count_packets(bundle)
    assert counts == count_packets(bundle)
    assert counts.packets == sum(step.packets for step in counts.steps)
    for step in counts.steps:
        assert step.hvx_packets <= step.packets <= step.instructions
        assert step.vrmpy >= step.least or step.macs == 0
    assert {loop.kernel for loop in counts.loops} == {step.kernel for step in counts.steps if step.vrmpy}
    assert main(["bench", str(bundle.path), "--emulate", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["packets"] == counts.packets
    assert main(["bench", str(bundle.path), "--emulate"]) == 0
    assert "vrmpy a packet" in capsys.readouterr().out


def test_packets_and_hardware_loops_of_a_listing() -> None:
    listing = """
00000010 <kernel>:
      10: { \tloop0(0x18,#0x8)
      14:   \tv1 = vsplat(r0) }
      18: { \tv2.w += vrmpy(v1.ub,v3.b)
      1c:   \tr1 = memw(r29+#0x4); \tmemw(r29+#0x8) = r2 }
      20: { \tv4 = vmem(r29+#0x1) }  :endloop0
      24: { \tjumpr r31 }
"""
    packets = packets_of(listing)
    assert [(p.address, len(p.instructions), p.vrmpy) for p in packets] == [
        (0x10, 2, 0),
        (0x18, 3, 1),
        (0x20, 1, 0),
        (0x24, 1, 0),
    ]
    assert [p.spills for p in packets] == [0, 0, 1, 0]
    (loop,) = hardware_loops(packets)
    assert (loop.number, [p.address for p in loop.packets], loop.vrmpy) == (0, [0x18, 0x20], 1)


def computed(source: str, values: np.ndarray, folder: Path) -> np.ndarray:
    """What a C program on the runtime's library makes of the file of `values`, in numbers of their type."""
    toolchain = resolve_target("hexagon").toolchain
    values.tofile(folder / "values")
    (folder / "main.c").write_text(source, encoding="utf-8")
    command = [*toolchain.compiler, "-O2", "-static", "main.c", *c_library(toolchain), "-o", "main"]
    subprocess.run(command, cwd=folder, check=True)
    subprocess.run([*toolchain.emulator, "./main", "values", "results"], cwd=folder, check=True)
    return np.fromfile(folder / "results", values.dtype)


DIVISION = """
#include <stdio.h>
double __hexagon_divdf3(double a, double b);
int main(int argc, char** argv) {
  double pair[2];
  FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
  if (argc != 3 || !in || !out) return 1;
  while (fread(pair, sizeof pair, 1, in) == 1) {
    pair[0] = __hexagon_divdf3(pair[0], pair[1]);
    if (fwrite(pair, sizeof pair[0], 1, out) != 1) return 1;
  }
  return 0;
}
"""


def test_division_of_the_runtime_is_that_of_ieee_754(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 2.2e-308, 1.7e308, 1, -3, 2**52 + 1])
    pairs = np.stack(np.meshgrid(special, special), -1).reshape(-1, 2)
    anything = random.integers(0, 1 << 64, (2000, 2), np.uint64, endpoint=False).view(np.float64)
    near = random.standard_normal((2000, 2)) * np.array([1e-308, 1])
    pairs = np.concatenate([pairs, anything, near, random.standard_normal((2000, 2))])
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(computed(DIVISION, pairs, tmp_path), pairs[:, 0] / pairs[:, 1])


ROOTS = """
#include <stdio.h>
float sqrtf(float x);
float floorf(float x);
int main(int argc, char** argv) {
  float values[2];
  FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
  if (argc != 3 || !in || !out) return 1;
  while (fread(values, sizeof values[0], 1, in) == 1) {
    values[1] = floorf(values[0]);
    values[0] = sqrtf(values[0]);
    if (fwrite(values, sizeof values, 1, out) != 1) return 1;
  }
  return 0;
}
"""


def test_roots_and_floors_of_the_runtime_are_exact(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    special = np.array(
        [0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3e38, 0.5, -0.5, 2**23 - 0.5, -(2.0**23)], np.float32
    )
    anything = random.integers(0, 1 << 32, 5000, np.uint32, endpoint=False).view(np.float32)
    values = np.concatenate([special, anything, random.normal(0, 100, 2000).astype(np.float32)])
    with np.errstate(all="ignore"):
        expected = np.stack([np.sqrt(values), np.floor(values)], -1).reshape(-1)
    np.testing.assert_array_equal(computed(ROOTS, values, tmp_path), expected)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_gives_the_same_integers(version: str, bundle: EmulatedBundle, tmp_path: Path) -> None:
    target = f"hexagon:{version}"
    assert resolve_target(target).instruction_set == version
    calibration = DIGITS / "calibration.npz"
    qcompiler.compile(DIGITS / "digits.onnx", calibration=calibration, output=tmp_path / "OUT", limit=8, target=target)
    other = load_emulated(tmp_path / "OUT")
    assert np.array_equal(other.run({"image": image()})["logits"], expected(bundle))
    # Vector arithmetic of floats, which later versions have, is not that of IEEE 754.
    flags = [f"--mcpu=hexagon{min(version, 'v73')}", f"--mattr=+hvx{min(version, 'v73')},+hvx-length128b"]
    listing = objdump(other, other.path / "libmodel.a", "-d", *flags)
    assert "vrmpy" in listing
    assert not re.findall(r"v\d+\.(?:sf|hf|qf32|qf16) = .*", listing)
