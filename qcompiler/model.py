"""A model in the compiler: a module, its constants, and where it came from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from xdsl.dialects.builtin import ModuleOp

from qcompiler.errors import IRError
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.text import parse_module, print_module
from qcompiler.ir.values import input_names, output_names

_CONSTANTS = "// constants: "


@dataclass
class Model:
    """`module` holds one function; `store` its arrays; `source` names the file for messages."""

    module: ModuleOp
    store: ConstantStore = field(default_factory=ConstantStore)
    source: str = "<model>"

    @property
    def inputs(self) -> list[str]:
        return input_names(self.module)

    @property
    def outputs(self) -> list[str]:
        return output_names(self.module)

    def clone(self) -> Model:
        """A copy that passes may change; arrays are shared."""
        return Model(self.module.clone(), self.store.copy(), self.source)

    def text(self, header: Iterable[str] = ()) -> str:
        """MLIR text, after comment lines."""
        return "".join(f"// {line}\n" for line in header) + print_module(self.module)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `path` (MLIR text) and its constants beside it, `path` with the ending `.safetensors`."""
        path = Path(path)
        constants = path.with_suffix(".safetensors")
        self.store.save(constants)
        path.write_text(self.text([_CONSTANTS.removeprefix("// ") + constants.name]))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Model:
        """Reads a file of `save` or of a dump; the constant files its header names must lie beside it.

        Raises:
            IRError: the file cannot be read, does not parse or verify, or a constant file is missing.
        """
        path = Path(path)
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise IRError(f"{path}: cannot read the module: {error}") from None
        store = ConstantStore()
        for line in text.splitlines():
            if not line.startswith("//"):
                break
            if line.startswith(_CONSTANTS):
                for name in line.removeprefix(_CONSTANTS).split():
                    store.load(path.parent / name)
        return Model(parse_module(text, str(path)), store, str(path))
