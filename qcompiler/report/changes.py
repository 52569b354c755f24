"""What two modules have otherwise: by nodes and types, not by lines of text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np

from qcompiler.ir.store import ConstantStore
from qcompiler.model import Model
from qcompiler.report.describe import base_name
from qcompiler.report.nodes import Node, nodes_of, type_text


@dataclass(frozen=True)
class Change:
    """A node that one module has and the other has not, or that both have with `details` that differ.

    `kind` is added, removed or changed. `name` and `op` are those of the new module, of the old one for a node that
    was removed.
    """

    kind: str
    name: str
    op: str
    details: tuple[str, ...] = ()


def changes(old: Model, new: Model) -> list[Change]:
    """The changes from one module to another, in the order of the old one, then what is new.

    Constants belong together by the names of their arrays, whose elements are compared; other nodes as `matched` says.
    """
    before, after = nodes_of(old), nodes_of(new)
    partners = matched(before, after)
    names = _tensor_partners(before, after, partners)
    heirs = {origin: node for node in after if not node.resource for origin in node.origin}
    news = {node.name: node for node in after}
    found: list[Change] = []
    for node in before:
        if (partner := partners.get(node.name)) is None:
            found.append(Change("removed", node.name, node.op, _fate(node, heirs)))
            continue
        other = news.pop(partner)
        renamed = replace(node, operands=tuple(names.get(name, name) for name in node.operands))
        details = (*_differences(renamed, other), *_elements(node, other, old.store, new.store))
        if details:
            found.append(Change("changed", other.name, other.op, details))
    found += [Change("added", node.name, node.op, tuple(map(type_text, node.results))) for node in news.values()]
    return found


def matched(before: Sequence[Node], after: Sequence[Node]) -> dict[str, str]:
    """Names of nodes of one module, and of those of another that they belong to.

    Nodes belong together that come from the same node of the ONNX model: those of one operation first, in their order,
    then those that bear its name alone, then the others.
    """
    groups: defaultdict[tuple[str, str], tuple[list[Node], list[Node]]] = defaultdict(lambda: ([], []))
    for side, nodes in enumerate((before, after)):
        for node in nodes:
            groups[node.resource, "" if node.resource else base_name(node.name)][side].append(node)
    partners: dict[str, str] = {}
    for olds, news in groups.values():
        rest = list(news)
        for node in olds:
            same = next((other for other in rest if other.op == node.op), None)
            if same is not None:
                rest.remove(same)
                partners[node.name] = same.name
        left = [node for node in olds if node.name not in partners]
        for one, other in zip(*(sorted(side, key=lambda n: "#" in n.name) for side in (left, rest)), strict=False):
            partners[one.name] = other.name
    return partners


def _tensor_partners(before: Sequence[Node], after: Sequence[Node], partners: Mapping[str, str]) -> dict[str, str]:
    """For the name of each tensor of the old module that of the same result of the node's partner."""
    news = {node.name: node for node in after}
    return {
        old.name: new.name
        for node in before
        if node.name in partners
        for old, new in zip(node.results, news[partners[node.name]].results, strict=False)
    }


def _fate(node: Node, heirs: Mapping[str, Node]) -> tuple[str, ...]:
    """Into what node a removed one went, if that is known."""
    heir = next((heirs[origin] for origin in node.origin if origin in heirs), None)
    return () if heir is None or node.resource else (f"now in {heir.name} ({heir.op})",)


def _differences(old: Node, new: Node) -> Iterator[str]:
    if old.op != new.op:
        yield f"operation: {old.op} -> {new.op}"
    for index, (a, b) in enumerate(zip_longest(old.results, new.results)):
        texts = ["none" if tensor is None else type_text(tensor) for tensor in (a, b)]
        label = "type" if max(len(old.results), len(new.results)) == 1 else f"type of result {index}"
        if texts[0] != texts[1]:
            yield f"{label}: {texts[0]} -> {texts[1]}"
        elif (a and (a.type, a.future)) != (b and (b.type, b.future)):
            yield f"{label}: {texts[0]}, with other scales or zero points"
    if old.operands != new.operands:
        yield f"operands: {', '.join(old.operands) or 'none'} -> {', '.join(new.operands) or 'none'}"
    for key in sorted(old.attributes.keys() | new.attributes.keys()) if old.op == new.op else ():
        a, b = (_short(node.attributes.get(key)) for node in (old, new))
        if old.attributes.get(key) != new.attributes.get(key):
            yield f"{key}: {a} -> {b}"
    if old.why != new.why:
        yield f"why: {old.why or 'none'} -> {new.why or 'none'}"


def _short(text: str | None, length: int = 80) -> str:
    if text is None:
        return "none"
    return text if len(text) <= length else text[: length - 3] + "..."


def _elements(old: Node, new: Node, before: ConstantStore, after: ConstantStore) -> Iterator[str]:
    """How the arrays of a constant differ."""
    if not (old.resource and new.resource):
        return
    a, b = before[old.resource], after[new.resource]
    if (a.shape, a.dtype) == (b.shape, b.dtype) and (count := int((a != b).sum())):
        largest = np.abs(a.astype(np.float64) - b.astype(np.float64)).max()
        yield f"{count} of {a.size} elements differ, by up to {largest:.4g}"
