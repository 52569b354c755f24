"""What the commands do: each takes its parsed options, works through the Python API and prints."""

from __future__ import annotations

import time
from argparse import Namespace
from dataclasses import asdict
from operator import length_hint

import numpy as np

import qcompiler
from qcompiler.cli.files import open_model, replacing
from qcompiler.cli.options import quantization
from qcompiler.cli.output import print_json, print_table, shape_text
from qcompiler.cli.progress import progress
from qcompiler.errors import BundleError, QCompilerError


def compile_command(options: Namespace) -> None:
    from qcompiler.cli.inspect import print_summary
    from qcompiler.report.bundle import describe_bundle

    if options.dump_ir and options.output.resolve() in (options.dump_ir / "_").resolve().parents:
        raise QCompilerError(f"{options.dump_ir} lies in the bundle, which holds the dumps in ir/ in any case")
    start = time.perf_counter()
    with progress(options.quiet) as shown:
        model = qcompiler.import_onnx(options.model, dict(options.shape))
        bundle = qcompiler.compile(
            model,
            target=options.target,
            output=options.output,
            calibration=options.calibration,
            min_sqnr=options.min_sqnr,
            accuracy_drop=options.accuracy_drop,
            write_recipe=options.write_recipe,
            embed_weights=options.embed_weights,
            form=options.format,
            threads=options.threads,
            prefix=options.prefix,
            tune=options.tune,
            tuning_database=options.tuning_database,
            work_groups=options.work_groups,
            **quantization(options),
            dump_ir=options.dump_ir,
            progress=shown,
        )
    seconds = time.perf_counter() - start
    description = describe_bundle(bundle)
    if options.json:
        print_json({"seconds": seconds, **asdict(description)})
    else:
        print_summary(description, f"{options.model} -> {options.output}, {seconds:.1f} s")


def run_command(options: Namespace) -> None:
    from qcompiler.calibration.data import open_calibration

    bundle = qcompiler.load_bundle(options.bundle, emulate=options.emulate)
    if options.threads > 1:
        bundle.set_threads(options.threads)
    expected = {t.name: (t.shape, t.dtype) for t in bundle.manifest.inputs}
    options.input.stat()  # else the message would speak of calibration
    feeds = open_calibration(options.input, expected)
    results: dict[str, list[np.ndarray]] = {t.name: [] for t in bundle.manifest.outputs}
    with progress(options.quiet) as shown:
        for found in bundle.run_many(shown.track(feeds, "running", length_hint(feeds) or None)):
            for name, array in found.items():
                results[name].append(array)
    outputs = {name: _stacked(arrays) for name, arrays in results.items()}
    with replacing(options.output) as file:
        np.savez(file, allow_pickle=False, **outputs)
    if options.json:
        rows = {name: {"shape": list(a.shape), "dtype": str(a.dtype)} for name, a in outputs.items()}
        print_json({"output": str(options.output), "samples": len(feeds), "arrays": rows})  # type: ignore[arg-type]


def _stacked(samples: list[np.ndarray]) -> np.ndarray:
    """Results of several samples along the first axis, joined there if it is a batch axis of one."""
    if len(samples) == 1:
        return samples[0]
    return np.concatenate(samples) if samples[0].shape[:1] == (1,) else np.stack(samples)


def inspect_command(options: Namespace) -> None:
    from qcompiler.cli.inspect import print_bundle, print_description
    from qcompiler.pipeline import CompilerContext, PassManager, parse
    from qcompiler.report.bundle import describe_bundle
    from qcompiler.report.describe import CANONICAL, describe_model

    if options.path.is_dir():
        bundle = describe_bundle(qcompiler.load_bundle(options.path))
        if options.json:
            print_json(asdict(bundle))
        else:
            print_bundle(bundle)
        return
    model = open_model(options.path)
    if options.path.suffix != ".mlir":
        PassManager(parse(CANONICAL)).run(model, CompilerContext(source=model.source))
    description = describe_model(model)
    if options.json:
        print_json(asdict(description))
    else:
        print_description(description)


def compare_command(options: Namespace) -> None:
    from qcompiler.report.compare import LayerError, compare

    with progress(options.quiet) as shown:
        bundle = qcompiler.load_bundle(options.bundle, emulate=options.emulate)
        result = compare(bundle, options.reference, options.data, options.limit, shown)
    if options.json:
        print_json(asdict(result))
        return

    def row(layer: LayerError) -> list[str]:
        decibel = "exact" if layer.max_error == 0 else "-" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f}"
        clipped = f"{100 * layer.clipped:.2g} %" if layer.clipped else ""
        return [
            layer.name,
            shape_text(layer.shape),
            layer.storage,
            decibel,
            f"{layer.max_error:.4g}",
            clipped,
        ]

    columns = ("value", "shape", "stored", ">SQNR dB", ">max error", ">clipped")
    print_table(f"Layers, over {result.samples} samples", columns, [row(layer) for layer in result.layers])
    print_table("Outputs", columns[:-1], [row(layer)[:-1] for layer in result.outputs])


def verify_command(options: Namespace) -> None:
    """Ends with exit code 2 if an integer differs."""
    from qcompiler.calibration.data import open_calibration
    from qcompiler.verify import verify

    bundle = qcompiler.load_bundle(options.bundle, emulate=options.emulate)
    inputs = {t.name: (t.shape, np.dtype(t.dtype)) for t in bundle.manifest.inputs}
    with progress(options.quiet) as shown:
        shown.step("verify")
        feeds = open_calibration(options.data, inputs, options.limit)
        result = verify(bundle, shown.track(feeds, "verifying", length_hint(feeds) or None))
    if options.json:
        print_json({"exact": result.exact, **asdict(result)})
    else:
        print(
            f"{result.samples} samples, {result.tensors} integer tensors, {result.elements} elements: "
            + ("all equal to the interpreter's" if result.exact else f"{len(result.differences)} tensors differ")
        )
    if not result.exact:
        first = result.differences[0].name if result.differences else "none compared"
        raise BundleError(f"{options.bundle} does not compute its IR's integers (first: {first}); compile it again")


def bench_command(options: Namespace) -> None:
    if options.emulate:
        from qcompiler.cli.emulation import bench_emulated

        bench_emulated(options)
        return
    from qcompiler.report.speed import time_bundle

    bundle = qcompiler.load_bundle(options.bundle)
    with progress(options.quiet) as shown:
        timings = time_bundle(bundle, options.repeats, options.reference, shown, options.threads)
    if options.json:
        print_json([asdict(timing) for timing in timings])
        return
    rows = [[t.name, f"{t.median_ms:.4g}", f"{t.min_ms:.4g}", f"{t.ratio:.2f}"] for t in timings]
    title = (
        f"{options.bundle}: {options.threads} thread{'s' * (options.threads > 1)}, {options.repeats} runs each, in turn"
    )
    print_table(title, ("", ">median ms", ">min ms", ">relative"), rows)
