"""The commands and their options. Values are checked where they are used: a pass knows its options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import qcompiler
from qcompiler.cli.options import add_quantization, add_search, positive

_FORMATS = """\
DATA is a .npz file with one array for each input, [N, ...] for N samples, or a folder of such files.
OUT is a bundle: the folder that compile writes. FILE.mlir is a dump of --dump-ir or of a bundle's ir/ folder.
"""

_HOMES = {
    "calibrate_command": "calibration",
    "merge_calibration_command": "calibration",
    "sensitivity_command": "sensitivity",
    "export_command": "export",
    "opt_command": "opt",
    "diff_command": "diff",
    "explore_command": "explore",
    "recipe_show_command": "recipe",
    "recipe_diff_command": "recipe",
    "recipe_check_command": "recipe",
}
"""The module of qcompiler.cli that a command lives in, if it is not `commands`."""


def _command(name: str) -> Callable[[argparse.Namespace], None]:
    """The function of a command, imported when it is called."""
    own = _HOMES.get(name, "commands")
    return lambda options: getattr(import_module(f"qcompiler.cli.{own}"), name)(options)


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, separator, extents = text.rpartition("=")
    try:
        shape = tuple(int(extent) for extent in extents.split("x")) if extents else ()
    except ValueError:
        separator = ""
    if not (separator and name) or min(shape, default=1) < 1:
        raise argparse.ArgumentTypeError(f"expected name=1x3x224x224 with positive extents, got '{text}'")
    return name, shape


Commands = argparse._SubParsersAction  # type: ignore[type-arg]


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; the chosen command's function is `run` of the result."""
    parser = argparse.ArgumentParser(
        prog="qcompiler",
        description="Compiles float ONNX models to integer programs; every step can be read and run.",
        epilog=_FORMATS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"qcompiler {qcompiler.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str, among: Commands = commands, of: str = "") -> argparse.ArgumentParser:
        sub = among.add_parser(
            name,
            help=text,
            description=text,
            epilog=_FORMATS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=_command(f"{of}{name.replace('-', '_')}_command"))
        sub.add_argument("--json", action="store_true", help="print one JSON document instead of text")
        sub.add_argument("-q", "--quiet", action="store_true", help="show no progress")
        return sub

    _compile(command("compile", "Calibrate, quantize and compile a model into a bundle."))
    _run(command("run", "Run a bundle on arrays."))
    _opt(command("opt", "Run passes on the IR."))
    _diff(command("diff", "Show what two dumps of the IR have otherwise, by nodes and types."))
    _explore(command("explore", "Write a page that shows a bundle's IR after each pass, to be opened in a browser."))
    _inspect(command("inspect", "Show what is quantized and how, what stays float and why, and the sizes."))
    _calibrate(command("calibrate", "Run the float model on data and write statistics, which can stand for the data."))
    _merge_calibration(command("merge-calibration", "Merge the statistics of several shards, in their order."))
    _sensitivity(command("sensitivity", "Measure what quantizing each tensor costs at the outputs, worst first."))
    text = "Show recipes, compare two, or check one against a model."
    recipe = commands.add_parser("recipe", help=text, description=text)
    recipes = recipe.add_subparsers(required=True, metavar="show|diff|check")
    _recipe_show(command("show", "Show a recipe, or that of a bundle.", recipes, "recipe_"))
    _recipe_diff(command("diff", "Show what two recipes ask for otherwise.", recipes, "recipe_"))
    _recipe_check(command("check", "Check that a recipe's rules fit a model, and a profile.", recipes, "recipe_"))
    _compare(command("compare", "Measure every layer of a bundle against the float model, in dB."))
    _export(
        command("export", "Write a quantized model as ONNX for other runtimes, or any module as a graph to look at.")
    )
    _verify(command("verify", "Prove on real inputs that a bundle's integers are those of its own IR."))
    _bench(command("bench", "Time a bundle on this machine, or count its instructions in an emulator."))
    return parser


def _target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", default="host", help="target to compile for (default: host, this machine)")


def _dump(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dump-ir", type=Path, metavar="DIR", help="write the IR after every pass to this folder")


def _shapes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape",
        type=_shape,
        action="append",
        default=[],
        metavar="NAME=1x3x224x224",
        help="shape of an input that the model leaves open (again for each input)",
    )


def _compile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    _target(parser)
    parser.add_argument("--calibration", type=Path, metavar="DATA", help="inputs that are typical of the use")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", required=True, help="the bundle's folder")
    _shapes(parser)
    add_quantization(parser)
    add_search(parser)
    parser.add_argument(
        "--embed-weights", action="store_true", help="link the weights into the libraries instead of weights.bin"
    )
    parser.add_argument("--threads", action="store_true", help="cut the work so that several threads can share it")
    parser.add_argument(
        "--prefix",
        default="model",
        metavar="NAME",
        help="first part of all C names, for several models in one program (default: model)",
    )
    parser.add_argument(
        "--tune", type=positive, default=0, metavar="N", help="measure N choices of kernels on this machine"
    )
    parser.add_argument(
        "--tuning-database", type=Path, metavar="DIR", help="where tuning keeps what it finds, and need not find again"
    )
    parser.add_argument(
        "--work-groups", type=Path, metavar="FILE.json", help="for GPUs: sizes of work-groups by kernel, from tuning"
    )
    parser.add_argument(
        "--format", default="bundle", metavar="bundle|tvm", help="tvm: a Relax executable for TVM's runtime as well"
    )
    _dump(parser)


def _emulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--emulate", action="store_true", help="run a bundle for another machine in the emulator of its target"
    )


def _threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="threads for a bundle compiled with --threads"
    )


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="OUT")
    _emulate(parser)
    _threads(parser)
    parser.add_argument("--input", type=Path, metavar="X.npz", required=True, help="inputs by name, as DATA below")
    parser.add_argument("--output", type=Path, metavar="Y.npz", required=True, help="where outputs go, by name")


def _opt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE.mlir|MODEL.onnx")
    parser.add_argument(
        "-p",
        "--passes",
        default="",
        metavar="PIPELINE",
        help="passes with options, such as 'canonicalize,calibrate{method=mse limit=64},choose-scheme'",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT.mlir",
        help="write text and constants here instead of to stdout",
    )
    _target(parser)
    parser.add_argument("--calibration", type=Path, metavar="DATA", help="what the pass calibrate reads")
    _dump(parser)
    parser.add_argument("--timing", action="store_true", help="print time and operations of each pass to stderr")
    parser.add_argument(
        "--print-after",
        action="append",
        default=[],
        metavar="PASS",
        help="print the module as it is after this pass of the pipeline instead of the result (again for others)",
    )
    parser.add_argument(
        "--only", metavar="NODE", help="print only what was made from this node of the model (a pattern with * and ?)"
    )
    parser.add_argument("--verify-only", action="store_true", help="parse and verify, print nothing")
    parser.add_argument("--list-passes", action="store_true", help="list all passes and end")


def _diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", type=Path, metavar="A.mlir|OUT", help="a dump, or a bundle, whose program is meant")
    parser.add_argument("new", type=Path, metavar="B.mlir|OUT")


def _explore(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="OUT")
    _emulate(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.html", required=True, help="the page to write")
    parser.add_argument("--data", type=Path, metavar="DATA", help="inputs to measure the error of every layer on")
    parser.add_argument("--limit", type=positive, metavar="N", help="use at most N samples of them")
    parser.add_argument(
        "--measure", action="store_true", help="time every kernel, or with --emulate count its instructions"
    )


def _inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="OUT|MODEL.onnx|FILE.mlir")


def _calibrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--calibration", type=Path, metavar="DATA", required=True, help="inputs typical of the use")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.safetensors", required=True)
    _shapes(parser)
    parser.add_argument("--method", default="minmax", help="range method to prepare for; outlier needs more statistics")
    parser.add_argument("--limit", type=positive, metavar="N", help="use at most N calibration samples")


def _merge_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.safetensors")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.safetensors", required=True)


def _sensitivity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    _target(parser)
    parser.add_argument("--calibration", type=Path, metavar="DATA", required=True, help="inputs typical of the use")
    _shapes(parser)
    add_quantization(parser)
    parser.add_argument(
        "--samples", type=positive, default=4, metavar="N", help="measure on N of them, evenly spread (default: 4)"
    )
    parser.add_argument("--top", type=positive, metavar="N", help="print the N worst only")


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="OUT")
    _emulate(parser)
    parser.add_argument("--reference", type=Path, metavar="MODEL.onnx", required=True, help="the float model")
    parser.add_argument("--data", type=Path, metavar="DATA", required=True, help="inputs to compare on")
    parser.add_argument("--limit", type=positive, metavar="N", help="use at most N samples")


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="OUT")
    _emulate(parser)
    parser.add_argument("--data", type=Path, metavar="DATA", required=True, help="inputs to verify on")
    parser.add_argument("--limit", type=positive, metavar="N", help="use at most N samples")


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="OUT")
    _emulate(parser)
    _threads(parser)
    parser.add_argument("--reference", type=Path, metavar="MODEL.onnx", help="float model to time in onnxruntime too")
    parser.add_argument("--repeats", type=positive, default=50, metavar="N", help="timed runs each (default: 50)")


def _export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="MODEL.onnx|OUT|FILE.mlir")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", required=True, help="the file to write")
    parser.add_argument("--format", default="qdq", help="qdq (default), qoperator, dot or viewer")
    parser.add_argument("--calibration", type=Path, metavar="DATA", help="what a float MODEL.onnx is quantized with")
    add_quantization(parser)


def _recipe_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="FILE.toml|OUT")


def _recipe_diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", type=Path, metavar="FILE.toml|OUT")
    parser.add_argument("new", type=Path, metavar="FILE.toml|OUT")


def _recipe_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="FILE.toml|OUT")
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    _shapes(parser)
    parser.add_argument("--profile", help="the runtime that is to take it, as in compile")
