"""A model in the compiler: a module, its constants, and where it came from."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xdsl.dialects.builtin import ModuleOp

from qcompiler.errors import IRError
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.rewriting import verify_module
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.text import parse_module, print_module
from qcompiler.ir.values import describe, dtype_of, input_names, output_names, shape

_CONSTANTS = "// constants: "


@dataclass
class Model:
    """`module` holds one function; `store` its arrays; `source` names the file for messages."""

    module: ModuleOp
    store: ConstantStore = field(default_factory=ConstantStore)
    source: str = "<model>"
    notes: list[str] = field(default_factory=list)
    """What the import changed beyond the form, one sentence each."""

    @property
    def inputs(self) -> list[str]:
        return input_names(self.module)

    @property
    def outputs(self) -> list[str]:
        return output_names(self.module)

    def clone(self) -> Model:
        """A copy that passes may change; arrays are shared."""
        return Model(self.module.clone(), self.store.copy(), self.source, list(self.notes))

    def text(self, header: Iterable[str] = ()) -> str:
        """MLIR text, after comment lines."""
        return "".join(f"// {line}\n" for line in header) + print_module(self.module)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `path` (MLIR text) and its constants beside it, `path` with the ending `.safetensors`."""
        path = Path(path)
        constants = path.with_suffix(".safetensors")
        self.store.save(constants)
        path.write_text(self.text([constants_line([constants.name])]))

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
                for name in shlex.split(line.removeprefix(_CONSTANTS)):
                    store.load(path.parent / name)
        module = parse_module(text, str(path))
        try:
            verify_module(module)
        except IRError as error:
            raise IRError(f"{path}: {error}") from None
        _check_constants(module, store, path)
        return Model(module, store, str(path))


def constants_line(files: Sequence[str]) -> str:
    """The line of a header that names the files of a module's constants, without its comment mark."""
    return _CONSTANTS.removeprefix("// ") + shlex.join(files)


def _check_constants(module: ModuleOp, store: ConstantStore, path: Path) -> None:
    for op in module.walk():
        if not isinstance(op, ConstantOp):
            continue
        if op.resource not in store:
            raise IRError(
                f"{path}: {describe(op)}: the array '{op.resource}' is in none of the constant files "
                "that the first lines name"
            )
        array = store[op.resource]
        if (array.shape, array.dtype) != (shape(op.y), dtype_of(op.y)):
            raise IRError(
                f"{path}: {describe(op)}: the array '{op.resource}' is {array.dtype} {list(array.shape)} in the "
                f"constant file; the text says {op.y.type}"
            )
