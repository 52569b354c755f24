"""The text of `inspect`, and the summary at the end of `compile`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qcompiler.cli.output import bytes_text, print_table, shape_text
from qcompiler.report.bundle import BundleDescription
from qcompiler.report.describe import Description, TensorRow

_EXCEPTIONS = 5
"""So many tensors of each unusual kind are named in a summary."""

_FIGURES = {
    "sensitivity": "alone",
    "affine_db": "affine",
    "symmetric_db": "symmetric",
    "per_channel_gain_db": "gain per channel",
    "weight_db": "weight",
}
"""Names of figures in dB, in the order in which tables show them."""


def print_summary(bundle: BundleDescription, title: str) -> None:
    """What a user wants to know first: how much runs in integers, what does not, sizes, where to look."""
    print(title)
    _print_partition(bundle.program)
    _print_storages(bundle.program)
    _print_calibration(bundle.program)
    _print_sizes(bundle)
    for note in bundle.notes:
        print(f"  note       {note}")
    if bundle.dumps:
        print(f"  IR dumps   {bundle.dumps[0]} to {bundle.dumps[-1]}")


def print_bundle(bundle: BundleDescription) -> None:
    print(f"{bundle.path}: bundle for {bundle.target.get('name', bundle.target)}")
    if bundle.cpu_flags:
        print(f"  needs      CPU with {', '.join(bundle.cpu_flags)}")
    _print_sizes(bundle)
    ratio = bundle.arena_bytes / bundle.arena_lower_bound if bundle.arena_lower_bound else 1.0
    bound = bytes_text(bundle.arena_lower_bound)
    print(f"  arena      {bytes_text(bundle.arena_bytes)}, {ratio:.2f} times the {bound} that live at the same time")
    print(f"  kernels    {_counts(bundle.kernels)}")
    if bundle.tuned:
        print(f"  tuned      {len(bundle.tuned)} of them: {', '.join(bundle.tuned)}")
    for note in bundle.notes:
        print(f"  note       {note}")
    print_description(bundle.program)


def print_description(description: Description) -> None:
    """Partition, then a table each of what is float, quantized tensors and quantized weights."""
    print(f"{description.source}: stage {description.stage}")
    _print_partition(description)
    _print_storages(description)
    _print_calibration(description)
    for kind, rows in (("input", description.inputs), ("output", description.outputs)):
        for row in rows:
            print(f"  {kind:10} {row.name} {shape_text(row.shape)} {_type_text(row)}")
    print(f"  constants  {bytes_text(description.constant_bytes)}")
    print()
    if description.floats:
        rows = [(f.name, f.op, shape_text(f.shape), f"{f.macs:,}", f.why) for f in description.floats]
        print_table("Float, and why", ("value", "operation", "shape", ">multiply-adds", "why"), rows)
    columns = ("value", "operation", "shape", "type", "why")
    if description.tensors:
        rows = [(*_row(t), _figures(t)) for t in description.tensors]
        print_table("Quantized tensors", (*columns, "figures, dB"), rows)
    if description.weights:
        print_table("Quantized weights", columns, [_row(t) for t in description.weights])


def _row(tensor: TensorRow) -> Sequence[str]:
    return (tensor.name, tensor.op, shape_text(tensor.shape), _type_text(tensor), tensor.why)


def _figures(tensor: TensorRow) -> str:
    """The figures behind a choice: SQNR at the outputs of the tensor alone, expected ones of each candidate type."""
    return ", ".join(f"{name} {tensor.numbers[key]:.1f}" for key, name in _FIGURES.items() if key in tensor.numbers)


def _type_text(tensor: TensorRow) -> str:
    if tensor.scale is None:
        return tensor.storage
    low, high = tensor.scale
    if tensor.channels is not None:
        return f"{tensor.storage}, {tensor.channels} scales {low:.3g} to {high:.3g}"
    zero = "zero points" if tensor.zero_point is None else f"zero point {tensor.zero_point}"
    return f"{tensor.storage}, scale {low:.6g}, {zero}"


def _print_partition(description: Description) -> None:
    total = description.integer_macs + description.float_macs
    share = f", {description.integer_macs / total:.1%} of {total:,} multiply-adds" if total else ""
    planned = description.stage in ("float", "calibrated")  # choose-scheme has the last word on these
    label = "integer?" if planned else "integer"
    print(f"  {label:10} {sum(description.integer.values())} operations{share}: {_counts(description.integer)}")
    count = sum(description.float.values())
    print(f"  float      {count} operations{': ' + _counts(description.float) if count else ''}")
    if description.borders:
        print(f"  borders    {description.borders} quantize and dequantize operations")


def _print_storages(description: Description) -> None:
    """How many tensors are stored how, and why those that are not plain 8 bits."""
    quantized = {kind: count for kind, count in description.storages.items() if kind != "float"}
    if not quantized:
        return
    print("  tensors    " + ", ".join(f"{count} in {kind}" for kind, count in description.storages.items()))
    for kind in quantized:
        if kind in ("8 bits symmetric", "8 bits affine"):
            continue
        rows = [(t.name, t.why) for t in description.tensors if t.kind == kind]
        _print_exceptions(kind.removesuffix(" symmetric"), rows)
    if description.integer_macs:
        heavy = [(f.name, f.why) for f in description.floats if f.macs]
        _print_exceptions("float", heavy)


def _print_exceptions(label: str, rows: Sequence[tuple[str, str]]) -> None:
    for name, why in rows[:_EXCEPTIONS]:
        print(f"    {label}: {name}: {why}")
    if len(rows) > _EXCEPTIONS:
        print(f"    {label}: {len(rows) - _EXCEPTIONS} more")


def _print_calibration(description: Description) -> None:
    """Whether enough samples were given."""
    found = description.calibration
    if found is None:
        return
    text = f"  calibrated on {found['samples']} samples, method {found['method']}"
    if "median_half" in found:
        text += (
            f"; over the last half of them ranges grew by {found['median_half']:.1%} (median), "
            f"{found['worst_half']:.1%} (worst)"
        )
    print(text)


def _print_sizes(bundle: BundleDescription) -> None:
    code = "kernels" if bundle.target.get("kind") == "opencl" else "library"
    sizes = {code: bundle.code_bytes, "weights": bundle.weight_bytes, "arena": bundle.arena_bytes}
    print("  sizes      " + ", ".join(f"{name} {bytes_text(size)}" for name, size in sizes.items()))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
