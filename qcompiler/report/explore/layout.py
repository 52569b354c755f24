"""Places for the nodes of a graph in layers from top to bottom, and lines for its edges.

The steps are those of Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures"
(IEEE Transactions on Systems, Man, and Cybernetics, 1981): layers by the longest path, nodes without extent where an
edge passes a layer, an order in each layer by the mean place of the neighbours. Coordinates minimize the squared
distances to the neighbours' mean, layer by layer, by isotonic regression.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Key = Hashable
_SWEEPS = 8
_GAP = 24.0
"""Least distance between the borders of two nodes of a layer."""


@dataclass(frozen=True)
class Layout:
    """Centres of nodes, and of each edge the points of its line from the producer to the reader, in pixels."""

    places: dict[int, tuple[float, float]]
    lines: list[list[tuple[float, float]]]


def layered(widths: Sequence[float], edges: Sequence[tuple[int, int]], distance: float) -> Layout:
    """Places for nodes `0..n-1`, in an order in which every edge goes from a smaller number to a larger one.

    Args:
        widths: of the nodes, in pixels.
        distance: from layer to layer, in pixels.
    """
    layer_of = _layers(len(widths), edges)
    chains = [_chain(edge, number, layer_of) for number, edge in enumerate(edges)]
    layers: list[list[Key]] = [[] for _ in range(max(layer_of, default=-1) + 1)]
    for node, layer in enumerate(layer_of):
        layers[layer].append(node)
    above: defaultdict[Key, list[Key]] = defaultdict(list)
    below: defaultdict[Key, list[Key]] = defaultdict(list)
    for (start, _), chain in zip(edges, chains, strict=True):
        for step, key in enumerate(chain[1:-1], 1):
            layers[layer_of[start] + step].append(key)
        for upper, lower in pairwise(chain):
            below[upper].append(lower)
            above[lower].append(upper)
    _order(layers, above, below)
    width = {key: widths[key] if isinstance(key, int) else 0.0 for layer in layers for key in layer}
    x = _coordinates(layers, above, below, width)
    y = {key: index * distance for index, layer in enumerate(layers) for key in layer}
    lines = [_straightened([(x[key], y[key]) for key in chain]) for chain in chains]
    return Layout({node: (x[node], y[node]) for node in range(len(widths))}, lines)


def _layers(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The longest path to each node; what has no producer stands right above its first reader."""
    layers = [0] * count
    readers: defaultdict[int, list[int]] = defaultdict(list)
    producers: defaultdict[int, list[int]] = defaultdict(list)
    for start, end in edges:
        readers[start].append(end)
        producers[end].append(start)
    for node in range(count):
        layers[node] = max((layers[p] + 1 for p in producers[node]), default=0)
    for node in range(count):
        if not producers[node] and readers[node]:
            layers[node] = min(layers[r] for r in readers[node]) - 1
    return layers


def _chain(edge: tuple[int, int], number: int, layer_of: Sequence[int]) -> list[Key]:
    """The ends of an edge, and a key for each layer that it passes."""
    start, end = edge
    return [start, *((number, layer) for layer in range(layer_of[start] + 1, layer_of[end])), end]


def _order(layers: list[list[Key]], above: Mapping[Key, Sequence[Key]], below: Mapping[Key, Sequence[Key]]) -> None:
    """Sorts each layer by the mean place of the neighbours, from above and from below in turn."""
    place = {key: index for layer in layers for index, key in enumerate(layer)}
    for sweep in range(_SWEEPS):
        neighbours, order = (below, reversed(layers)) if sweep % 2 else (above, iter(layers))
        for layer in order:
            means = {
                key: sum(place[n] for n in near) / len(near) if (near := neighbours.get(key)) else place[key]
                for key in layer
            }
            layer.sort(key=means.__getitem__)
            place.update({key: index for index, key in enumerate(layer)})


def _coordinates(
    layers: Sequence[Sequence[Key]],
    above: Mapping[Key, Sequence[Key]],
    below: Mapping[Key, Sequence[Key]],
    width: Mapping[Key, float],
) -> dict[Key, float]:
    x = {key: 0.0 for layer in layers for key in layer}
    for sweep in range(2 * _SWEEPS):
        neighbours, order = (below, reversed(layers)) if sweep % 2 else (above, iter(layers))
        for layer in order:
            wanted = [sum(x[n] for n in near) / len(near) if (near := neighbours.get(key)) else x[key] for key in layer]
            x.update(zip(layer, _apart(wanted, [width[key] for key in layer]), strict=True))
    return x


def _apart(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """The places nearest to the wanted ones, in the sum of squares, at which neighbours do not touch.

    With `x_i = z_i + offset_i` the distances say that `z` does not fall: isotonic regression, by pooling neighbours.
    """
    offsets = [0.0]
    for left, right in pairwise(widths):
        offsets.append(offsets[-1] + (left + right) / 2 + _GAP)
    pools: list[tuple[float, int]] = []
    for want, offset in zip(wanted, offsets, strict=True):
        mean, count = want - offset, 1
        while pools and pools[-1][0] > mean:
            other, size = pools.pop()
            mean, count = (other * size + mean * count) / (size + count), size + count
        pools.append((mean, count))
    placed = [mean for mean, count in pools for _ in range(count)]
    return [z + offset for z, offset in zip(placed, offsets, strict=True)]


def _straightened(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points without those in the middle of a vertical line."""
    kept = [points[0]]
    for before, point, after in zip(points, points[1:], points[2:], strict=False):
        if not abs(before[0] - point[0]) < 0.5 > abs(point[0] - after[0]):
            kept.append(point)
    return [*kept, points[-1]]
