"""Instructions of one inference on 64-bit ARM: our bundle against the int8 of onnxruntime and LiteRT, counted in QEMU.

    python benchmarks/arm.py [MODEL ...] [--target arm-cpu] [--layers] [--reuse] [--litert PYTHON] [--json FILE]

onnxruntime's aarch64 wheel runs in an ARM userland (`arm_userland.py`, built on first use), on one thread with all
graph optimizations, on two models: `same QDQ` is the model.qdq.onnx of our bundle, the program that we run; `its own`
comes from its own static quantization with the same calibration (QDQ, minmax, per-channel weights, all activations in
8 bits), which it has more integer kernels for. With `--litert`, the interpreter that `litert_models.py` runs in, also
against LiteRT's aarch64 wheel with XNNPACK, on one thread: that script converts the model. An inference of a peer is
what executes between two marks (`count_marks.c`), calls from Python included, below 0.1 million; ours is
`count_instructions`.
A count is no time; it leaves out caches, and what a core does at once.

`dots / least`: dot products executed against those that the multiply-adds of these layers need; `dots`, `float`: shares
of all our instructions that are dot products, and that belong to steps in float. `of peak`: dot products a cycle of the
inner loops against the core's peak by llvm-mca, mean weighted by dot products; the dense ones alone follow.

Needs the pretrained models beside the repository (`../shared`), and qemu-user, gcc-aarch64-linux-gnu, and for the last
columns llvm-19.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from accuracy import catalogue
from arm_userland import CORES, LITERT, ONNXRUNTIME, ROOT, Userland, userland
from peer_quantizer import SETTINGS, quantize, upgraded
from rich.console import Console
from rich.table import Table

import qcompiler
from qcompiler.bundle.emulate import EmulatedBundle, load_emulated
from qcompiler.bundle.link import link_plugin
from qcompiler.errors import TargetError
from qcompiler.report.cycles import CycleEstimate, estimate_cycles
from qcompiler.report.instructions import StepCount, count_instructions, instructions_of
from qcompiler.targets.spec import resolve_target

WORK = Path(__file__).resolve().parent.parent / "build" / "benchmarks" / "arm"
MODELS = ("resnet8_wide", "mobilenetv2", "squeezenet1.1", "yolox_nano", "minilm")
TARGETS = ("arm-cpu", "arm-cpu:neoverse-n2")
CALIBRATION_SAMPLES = 8
_RUNS = 7
"""Inferences of which the median is taken."""


@dataclass(frozen=True)
class Layer:
    """One step; the share of the peak, by core, of the inner loop of its kernel, where that has dot products."""

    location: str
    rule: str
    instructions: int
    dots: int
    least: int
    of_peak: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """Instructions of one inference; a peer that fails has none."""

    model: str
    target: str
    ours: int
    same_qdq: int | None
    own_qdq: int | None
    litert: int | None
    layers: tuple[Layer, ...]

    @property
    def peers(self) -> tuple[int | None, ...]:
        return self.same_qdq, self.own_qdq, self.litert

    @property
    def best(self) -> int | None:
        return min((count for count in self.peers if count is not None), default=None)

    @property
    def dots_of_least(self) -> float:
        """Of the layers that have dot products."""
        least = sum(layer.least for layer in self.layers)
        return sum(layer.dots for layer in self.layers if layer.least) / least if least else 0.0

    def share(self, layers: Sequence[Layer]) -> float:
        return sum(layer.instructions for layer in layers) / self.ours

    @property
    def dot_share(self) -> float:
        return sum(layer.dots for layer in self.layers) / self.ours

    @property
    def float_share(self) -> float:
        return self.share([layer for layer in self.layers if layer.rule.startswith("float.")])

    def of_peak(self, rules: str = "") -> dict[str, float]:
        """Mean share of the peak, by core, over the inner loops of rules with `rules` in the name."""
        found: dict[str, float] = {}
        for core in {core for layer in self.layers for core in layer.of_peak}:
            layers = [layer for layer in self.layers if core in layer.of_peak and rules in layer.rule]
            if dots := sum(layer.dots for layer in layers):
                cycles = sum(layer.dots / layer.of_peak[core] for layer in layers)
                found[core] = dots / cycles
        return dict(sorted(found.items()))


def count_peer(system: Userland, script: str, instruction_set: str, model: Path, inputs: Path) -> int | None:
    """Instructions of one inference in a peer, the median of `_RUNS`; None if it does not run the model."""
    here = Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as folder:
        plugin, out = Path(folder) / "count_marks.so", Path(folder) / "marks"
        link_plugin(str(here / "count_marks.c"), plugin)
        arguments = [str(here / script), str(model), str(inputs), str(_RUNS)]
        command = system.command(CORES[instruction_set], ["-plugin", f"{plugin},out={out}"], arguments)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            message = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
            print(f"{model.name}: {script} fails: {message[-1][:200]}", file=sys.stderr)
            return None
        return int(np.median(np.diff(np.loadtxt(out, np.int64))))


def litert_model(python: Path, model: Path, feeds: Sequence[Mapping[str, np.ndarray]], folder: Path) -> Path | None:
    """The model that `litert_models.py` makes in `folder`, its inputs beside it; None if it does not convert."""
    found, samples = folder / "litert.tflite", folder / "calibration.npz"
    if not found.exists():
        np.savez(samples, **{name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})
        script = Path(__file__).with_name("litert_models.py")
        done = subprocess.run([python, script, model, samples, found], stdout=sys.stderr, check=False)
        if done.returncode != 0:
            print(f"{model.name}: no model for LiteRT", file=sys.stderr)
            return None
    return found


def contest(name: str, target: str, root: Path, work: Path, reuse: bool, litert: Path | None) -> Result:
    """Counts of a model on a target; files are kept in the folder `work`, the userlands in `root`."""
    model = catalogue().MODELS[name]
    feeds = list(model.calibration(limit=CALIBRATION_SAMPLES))
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    bundle = compiled(model.path(), feeds, target, folder / f"{target.replace(':', '-')}.bundle", reuse)
    inputs, own = folder / "inputs.npz", folder / "own.onnx"
    np.savez(inputs, **feeds[0])
    if not own.exists():
        quantize(upgraded(model.path(), folder), SETTINGS["minmax"], feeds, own)
    spec = resolve_target(target)
    counts = count_instructions(bundle)
    same_qdq, own_qdq = (
        count_peer(userland(root, ONNXRUNTIME), "arm_peer.py", spec.instruction_set, path, inputs)
        for path in (bundle.path / "model.qdq.onnx", own)
    )
    in_litert = None
    if litert and (converted := litert_model(litert, model.path(), feeds, folder)):
        system = userland(root, LITERT)
        its_inputs = converted.with_suffix(".npz")
        in_litert = count_peer(system, "arm_litert.py", spec.instruction_set, converted, its_inputs)
    try:
        estimates = estimate_cycles(counts, instructions_of(bundle), spec.instruction_set)
    except TargetError as error:
        print(f"no estimates of cycles: {error}", file=sys.stderr)
        estimates = []
    layers = tuple(_layer(step, estimates) for step in counts.steps)
    return Result(name, target, counts.total, same_qdq, own_qdq, in_litert, layers)


def compiled(path: Path, feeds: list[dict[str, np.ndarray]], target: str, output: Path, reuse: bool) -> EmulatedBundle:
    """The model's bundle in `output`."""
    if not (reuse and (output / "manifest.json").exists()):
        qcompiler.compile(path, target=target, calibration=feeds, output=output)
    return load_emulated(output)


def _layer(step: StepCount, estimates: Sequence[CycleEstimate]) -> Layer:
    of_peak = {
        estimate.core: loop.share_of_peak
        for estimate in estimates
        for loop in estimate.loops
        if loop.kernel == step.kernel and step.dots
    }
    return Layer(step.location, step.rule, step.instructions, step.dots, step.least, of_peak)


def columns(result: Result) -> list[str]:
    """The row of a result in the table."""
    peers = [f"{count / 1e6:.2f}" if count is not None else "none" for count in result.peers]
    ratio = [f"{result.ours / count:.2f}" if count else "" for count in result.peers]
    shares = [f"{result.dots_of_least:.2f}", f"{result.dot_share:.0%}", f"{result.float_share:.0%}"]
    peaks = [" ".join(f"{share:.0%}" for share in result.of_peak(rules).values()) for rules in ("", "dense")]
    return [result.model, result.target, f"{result.ours / 1e6:.2f}", *peers, *ratio, *shares, *peaks]


def layers(result: Result, console: Console) -> None:
    """Prints the steps, most expensive first."""
    table = Table("layer", "rule", "instructions", "share", "dots in it", "dots / least", "of peak", title=result.model)
    for layer in sorted(result.layers, key=lambda layer: -layer.instructions):
        table.add_row(
            layer.location,
            layer.rule,
            f"{layer.instructions:,}",
            f"{result.share([layer]):.1%}",
            f"{layer.dots / layer.instructions:.0%}" if layer.dots else "",
            f"{layer.dots / layer.least:.2f}" if layer.least else "",
            " ".join(f"{core} {share:.0%}" for core, share in layer.of_peak.items()),
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of: {', '.join(MODELS)}, or any other pretrained")
    parser.add_argument("--target", action="append", metavar="TARGET", help=f"default: {' and '.join(TARGETS)}")
    parser.add_argument("--layers", action="store_true", help="a table of every step of every model")
    parser.add_argument("--reuse", action="store_true", help="take bundles that the work folder has")
    parser.add_argument("--litert", type=Path, metavar="PYTHON", help="with what litert_requirements.txt names")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for models and bundles")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the ARM userland")
    arguments = parser.parse_args()
    console, root = Console(width=200), arguments.root.absolute()
    heads = ("model", "target", "ours M", "same QDQ M", "its own M", "LiteRT M")
    heads += ("ours / same", "ours / own", "ours / LiteRT")
    heads += ("dots / least", "dots", "float", "of peak", "of peak, dense")
    table = Table(*heads, title=f"against {ONNXRUNTIME.wheels[0]} and {LITERT.wheels[0]}, million instructions")
    results = []
    for name in arguments.models or MODELS:
        for target in arguments.target or TARGETS:
            result = contest(name, target, root, arguments.work, arguments.reuse, arguments.litert)
            results.append(result)
            console.print(*columns(result), sep="  ")
            table.add_row(*columns(result))
            if arguments.layers:
                layers(result, console)
            if arguments.json:
                arguments.json.write_text(json.dumps([asdict(r) for r in results], indent=1), "utf-8")
    console.print(table)


if __name__ == "__main__":
    main()
