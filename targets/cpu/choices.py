"""What the rules of matrix products may choose: form of the dot product, register tile, order of the loops around it.

All choices give the same integers. They stand in the order of their estimated cycles; the first is the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcompiler.targets.cpu.isa import Isa

FIRST_LEVEL_CACHE = 24 * 1024
"""Bytes of weights that stay in the first-level cache beside the activations."""

_FEW_TILES = 4
"""Most tiles that share a block of channels in an order of loops that is tried besides the default."""

_OTHER_ORDER = 1.02
"""Factor on the estimate of an order of loops that is not the default."""


@dataclass(frozen=True)
class Dense:
    """A matrix product over a grid of output pixels; steps are in elements of the flat buffers."""

    grid: tuple[int, int, int]
    """Images (or batch entries), rows, columns."""
    x_steps: tuple[int, int, int]
    x_origin: int
    y_steps: tuple[int, int, int]
    y_origin: int
    taps: tuple[int, int]
    tap_steps: tuple[int, int]
    run: int
    groups: int
    """Groups of channels that read `run` bytes each, `run` apart."""
    channels: int
    """Output channels of one group."""
    x_dtype: str
    merged: int = 1
    """Neighbouring pixels of a row that are computed as one, whose channels are those of all of them."""

    def dots(self, depth: int) -> int:
        """Dot products of `depth` elements in one run."""
        return -(-self.run // depth)

    def steps(self, depth: int) -> int:
        """Dot products of `depth` elements that one accumulator takes."""
        return self.taps[0] * self.taps[1] * self.dots(depth)


@dataclass(frozen=True)
class RegisterTile:
    rows: int
    columns: int
    vectors: int

    @property
    def pixels(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True)
class DenseChoice:
    isa: Isa
    tile: RegisterTile
    stripe: int
    """Neighbouring tiles that take one block of channels after the other; 0: all tiles do."""

    @property
    def decisions(self) -> dict[str, int | str]:
        tile = self.tile
        shape = {"rows": tile.rows, "columns": tile.columns, "vectors": tile.vectors}
        return {"form": self.isa.form, **shape, "stripe": self.stripe}


def dense_choices(dense: Dense, isas: Sequence[Isa]) -> tuple[DenseChoice, ...]:
    """All choices for some forms of the dot product, of which one at least takes any grid."""
    rated = []
    for preference, isa in enumerate(isas):
        for tile in _tiles(dense, isa):
            cycles = _cycles(dense, tile, isa)
            usual, *others = _stripes(dense, tile, isa)
            rated.append((cycles, preference, -tile.columns, DenseChoice(isa, tile, usual)))
            for stripe in others:
                rated.append((cycles * _OTHER_ORDER, preference, -tile.columns, DenseChoice(isa, tile, stripe)))
    rated.sort(key=lambda entry: entry[:3])
    return tuple(choice for *_, choice in rated)


def _tiles(dense: Dense, isa: Isa) -> list[RegisterTile]:
    _, height, width = dense.grid
    needed, most = -(-dense.channels // isa.channels), isa.accumulators * isa.pixels
    return [
        RegisterTile(rows, columns, vectors)
        for rows in range(1, min(height, most) + 1)
        for columns in range(1, min(width // dense.merged, most // rows) + 1)
        for vectors in range(1, min(needed, most // (rows * columns)) + 1)
        if rows * columns % isa.pixels == 0 and isa.fits(rows * columns, vectors)
    ]


def _cycles(dense: Dense, tile: RegisterTile, isa: Isa) -> float:
    _, height, width = dense.grid
    blocks = -(-dense.channels // (isa.channels * tile.vectors))
    count = -(-height // tile.rows) * -(-width // (tile.columns * dense.merged)) * blocks
    accumulators = tile.pixels * tile.vectors // isa.pixels
    steps = dense.steps(isa.depth)
    step = isa.step_cycles(tile.pixels, tile.vectors, dense.dots(isa.depth), steps)
    partial = _partial_stores(dense, tile, isa) * isa.partial_store
    return dense.groups * count * (steps * step + isa.tile_cycles(accumulators) + partial)


def _partial_stores(dense: Dense, tile: RegisterTile, isa: Isa) -> int:
    """How many rows or pixels of a tile have results of less than a vector in a row."""
    span = min(dense.channels, tile.vectors * isa.channels)
    touch = span == dense.merged * dense.y_steps[2]
    length, number = (span * tile.columns, tile.rows) if touch else (span, tile.pixels)
    return number if length < isa.bytes else 0


def _stripes(dense: Dense, tile: RegisterTile, isa: Isa) -> list[int]:
    """Values of `DenseChoice.stripe`, the default first.

    If all weights stay in the first-level cache, blocks of channels are innermost.
    """
    tiles = -(-dense.grid[2] // (tile.columns * dense.merged))
    span = min(dense.channels, tile.vectors * isa.channels)
    blocks = dense.groups * -(-dense.channels // span)
    weight_bytes = blocks * dense.steps(isa.depth) * tile.vectors * isa.bytes
    usual = 0 if weight_bytes > FIRST_LEVEL_CACHE else _shared(dense, tile, tiles, isa)
    if blocks == 1:
        return [usual]
    return list(dict.fromkeys((usual, 0, 1, _divisor(tiles, _FEW_TILES))))


def _shared(dense: Dense, tile: RegisterTile, tiles: int, isa: Isa) -> int:
    """Tiles of a row whose activations and results stay in the second-level cache; 1 if that is enough.

    From one tile to the next the weights of a block can stay in registers; where a single tile takes block after block,
    its activations would instead.
    """
    if not isa.stripe_bytes:
        return 1
    size = tile.rows * tile.columns * dense.merged * (dense.x_steps[2] + dense.y_steps[2])
    return _divisor(tiles, max(1, isa.stripe_bytes // size))


def _divisor(number: int, most: int) -> int:
    """The largest divisor up to `most`."""
    return max(d for d in range(1, min(number, most) + 1) if number % d == 0)
