"""The reference of the IR in `docs/` is that of the definitions."""

from __future__ import annotations

import re
from pathlib import Path

from qcompiler.ir.q_dialect import Q_OPS
from qcompiler.ir.reference import reference

DOCUMENT = Path(__file__).parents[1] / "docs" / "ir-reference.md"


def test_the_committed_reference_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == reference(), "run: python -m qcompiler.ir.reference docs/ir-reference.md"


def test_every_operation_is_documented() -> None:
    sections = re.split(r"^### ", reference(), flags=re.MULTILINE)[1:]
    assert [section.split("`")[1] for section in sections] == [op.name for op in Q_OPS]
    for op, section in zip(Q_OPS, sections, strict=True):
        definition = op.get_irdl_definition()
        names = [name for name, _ in (*definition.operands, *definition.results)] + list(definition.properties)
        assert sorted(re.findall(r"^\| (?:operand|attribute|result) \| `(.*?)`", section, re.MULTILINE)) == sorted(
            names
        )
        assert len(section.splitlines()[2]) > 20
