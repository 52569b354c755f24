"""Sizes of work-groups by kernel, as tuning on a device finds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from os import PathLike
from pathlib import Path

from qcompiler.errors import PipelineError

Size = tuple[int, int, int]
"""Along each dimension of the grid of work-items; 1 where there is none."""
WorkGroups = Mapping[str, Sequence[int]] | str | PathLike[str]
"""Sizes by kernel, or the JSON file that holds such an object."""

MOST_ITEMS = 1024
"""Work-items of a group; a device may allow fewer, which its driver tells."""


def read_work_groups(given: WorkGroups) -> dict[str, Size]:
    """Checked sizes.

    Raises:
        PipelineError: the file cannot be read or holds something else, or a size is none; the message names the kernel.
    """
    origin, sizes = "work_groups", given
    if isinstance(given, str | PathLike):
        origin = str(given)
        try:
            sizes = json.loads(Path(given).read_text(encoding="utf-8"))
        except OSError as error:
            raise PipelineError(f"{origin}: {error.strerror}") from error
        except ValueError as error:
            raise PipelineError(f"{origin} is no JSON file: {error}") from error
    if not isinstance(sizes, Mapping):
        raise PipelineError(f'{origin}: expected an object such as {{"k1_mali_conv_1x8x16": [8, 8, 1]}}')
    return {str(kernel): _size(origin, str(kernel), size) for kernel, size in sizes.items()}


def _size(origin: str, kernel: str, size: object) -> Size:
    if isinstance(size, list | tuple) and len(size) == 3 and all(type(n) is int and n > 0 for n in size):
        x, y, z = size
        if x * y * z <= MOST_ITEMS:
            return x, y, z
    raise PipelineError(
        f"{origin}: kernel {kernel}: expected three positive integers whose product is at most {MOST_ITEMS}, got {size}"
    )


def check_work_groups(sizes: Mapping[str, Size], grids: Mapping[str, Sequence[int]]) -> None:
    """Whether kernels exist, and have the dimensions.

    Args:
        grids: the work-items of each kernel of the program, along each dimension that it has.

    Raises:
        PipelineError: a kernel is missing, or has fewer dimensions than its work-groups.
    """
    for kernel, size in sizes.items():
        if kernel not in grids:
            near = get_close_matches(kernel, grids, 1)
            hint = f"did you mean {near[0]}?" if near else "bench --emulate --json lists them"
            raise PipelineError(f"work-groups for kernel {kernel}, which the program does not have; {hint}")
        dimensions = len(grids[kernel])
        if any(n > 1 for n in size[dimensions:]):
            raise PipelineError(
                f"work-groups of {list(size)} for kernel {kernel}, whose work-items have {dimensions} dimensions: "
                "the other sizes have to be 1"
            )
