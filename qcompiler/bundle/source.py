"""The C files of a bundle that are the same for every model, but for the names."""

from __future__ import annotations

import re
from pathlib import Path


def source_text(name: str, prefix: str) -> str:
    """A file of the folder `c`, for the functions, constants, libraries and CMake target of a prefix."""
    text = (Path(__file__).parent / "c" / name).read_text(encoding="utf-8")
    text = re.sub(r"\b(lib)?model(?=_|\.a\b)", rf"\g<1>{prefix}", text)
    if name.endswith(".txt"):
        text = re.sub(r"\bmodel\b(?!\.)", prefix, text)
    return re.sub(r"\bMODEL_", f"{prefix.upper()}_", text)
