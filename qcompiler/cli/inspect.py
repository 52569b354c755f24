"""The text of `inspect`, and the summary at the end of `compile`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qcompiler.cli.output import bytes_text, print_table, shape_text
from qcompiler.report.bundle import BundleDescription
from qcompiler.report.describe import Description, TensorRow


def print_summary(bundle: BundleDescription, title: str) -> None:
    """What a user wants to know first: how much runs in integers, what does not, sizes, where to look."""
    print(title)
    _print_partition(bundle.program)
    _print_sizes(bundle)
    for note in bundle.notes:
        print(f"  note       {note}")
    if bundle.dumps:
        print(f"  IR dumps   {bundle.dumps[0]} to {bundle.dumps[-1]}")


def print_bundle(bundle: BundleDescription) -> None:
    print(f"{bundle.path}: bundle for {bundle.target.get('name', bundle.target)}")
    _print_sizes(bundle)
    print(f"  kernels    {_counts(bundle.kernels)}")
    for note in bundle.notes:
        print(f"  note       {note}")
    print_description(bundle.program)


def print_description(description: Description) -> None:
    """Partition, then a table each of what is float, quantized tensors and quantized weights."""
    print(f"{description.source}: stage {description.stage}")
    _print_partition(description)
    for kind, rows in (("input", description.inputs), ("output", description.outputs)):
        for row in rows:
            print(f"  {kind:10} {row.name} {shape_text(row.shape)} {_type_text(row)}")
    print(f"  constants  {bytes_text(description.constant_bytes)}")
    print()
    if description.floats:
        rows = [(f.name, f.op, shape_text(f.shape), f"{f.macs:,}", f.why) for f in description.floats]
        print_table("Float, and why", ("value", "operation", "shape", ">multiply-adds", "why"), rows)
    columns = ("value", "operation", "shape", "type", "why")
    for title, tensors in (
        ("Quantized tensors", description.tensors),
        ("Quantized weights", description.weights),
    ):
        if tensors:
            print_table(title, columns, [_row(t) for t in tensors])


def _row(tensor: TensorRow) -> Sequence[str]:
    return (tensor.name, tensor.op, shape_text(tensor.shape), _type_text(tensor), tensor.why)


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


def _print_sizes(bundle: BundleDescription) -> None:
    sizes = {"library": bundle.library_bytes, "weights": bundle.weight_bytes, "arena": bundle.arena_bytes}
    print("  sizes      " + ", ".join(f"{name} {bytes_text(size)}" for name, size in sizes.items()))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
