"""From object files to libraries and programs, with the tools of a target's toolchain."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..errors import TargetError
from ..targets.toolchain import NATIVE, Toolchain
from .manifest import DRIVER

_SOURCES = Path(__file__).parent / "c"

_WEIGHTS = """\
    .section .rodata.{symbol}, "a", %progbits
    .balign {alignment}
    .globl {symbol}
    .type {symbol}, %object
{symbol}:
    .incbin "{file}"
    .size {symbol}, . - {symbol}
    .section .note.GNU-stack, "", %progbits
"""


def link_shared(
    objects: Sequence[Path],
    library: Path,
    exports: Sequence[str],
    toolchain: Toolchain = NATIVE,
    *,
    incomplete: bool = False,
) -> None:
    """Links object files into a shared library, of which only `exports` (names, or patterns with `*`) can be seen.

    The library depends on no other but those whose functions it calls, libm and libc, and its code is not altered when
    it is loaded. An `incomplete` one may lack functions, which the program that loads it has, and so may all of a
    toolchain without a C library.

    Raises:
        TargetError: there is no linker, or it fails.
    """
    command = toolchain.find("linker", [*toolchain.compilers, *toolchain.linkers])
    script = library.with_suffix(".map")
    script.write_text("{ global: " + "".join(f"{name}; " for name in exports) + "local: *; };\n", encoding="ascii")
    options = [f"--version-script={script}", f"-soname={library.name}", "--strip-debug", "--as-needed"]
    options += ["-z", "text", "-z", "noexecstack"]
    if command in toolchain.compilers:
        options += [] if incomplete or toolchain.runtime else ["-z", "defs"]
        given = ["-shared", "-nostartfiles", *(word for option in options for word in ("-Xlinker", option))]
        libraries = [] if toolchain.runtime else ["-lm", "-pthread"]
    else:  # a linker does not know where the C library is; the loader finds libm's functions
        given, libraries = ["-shared", *options], []
    try:
        _call([*command, *given, "-o", str(library), *map(str, objects), *libraries], f"linking {library}")
    finally:
        script.unlink()


def archive(objects: Sequence[Path], library: Path, toolchain: Toolchain) -> None:
    """Puts object files into a static library, the same bytes each time.

    Raises:
        TargetError: there is no archiver, or it fails.
    """
    _call([*toolchain.archiver, "rcsD", str(library), *map(str, objects)], f"making {library}")


def weights_object(weights: Path, symbol: str, alignment: int, output: Path, toolchain: Toolchain) -> None:
    """An object file with the content of the file `weights` as constant data called `symbol`.

    Raises:
        TargetError: there is no compiler, or it fails.
    """
    source = weights.with_suffix(".s")
    source.write_text(_WEIGHTS.format(symbol=symbol, alignment=alignment, file=weights.name), encoding="utf-8")
    command = [*toolchain.compiler, "-c", "-o", str(output.absolute()), source.name]
    _call(command, f"assembling {weights}", weights.parent)


def compile_source(source: Path, output: Path, toolchain: Toolchain) -> None:
    """An object file of a C file, for a shared library too; headers stand beside it.

    Raises:
        TargetError: there is no compiler, or it fails.
    """
    command = [*toolchain.compiler, "-std=c11", "-O2", "-fPIC", "-c", "-o", str(output), str(source)]
    _call(command, f"compiling {source.name}")


def link_program(source: Path, library: Path, include: Path, program: Path, toolchain: Toolchain) -> None:
    """A static executable of a C file and a static library, for the target's emulator.

    Raises:
        TargetError: there is no compiler, or it fails.
    """
    options = ["-std=c11", "-O2", "-static", f"-I{include}"]
    files = [str(source), str(library), *c_library(toolchain)]
    _call([*toolchain.compiler, *options, "-o", str(program), *files], f"linking {program}")


def c_library(toolchain: Toolchain) -> list[str]:
    """What the compiler's command line has to end with so that a static program finds the C library."""
    if not toolchain.runtime:
        return ["-lm", "-pthread"]
    folder = _SOURCES / toolchain.runtime
    return [f"-I{folder}", *map(str, sorted(folder.glob("*.c")))]


def link_driver(source: Path, folder: Path, program: Path, toolchain: Toolchain) -> None:
    """An executable of a C file and the driver of the bundle in `folder`.

    Raises:
        TargetError: there is no compiler, or it fails.
    """
    options = ["-std=c11", "-O2", f"-I{folder}"]
    files = [str(source), str(folder / DRIVER[0]), "-ldl"]
    _call([*toolchain.compiler, *options, "-o", str(program), *files], f"linking {program}")


def link_plugin(source: str, plugin: Path) -> None:
    """The plug-in of the emulator in a file of the folder `c`, for this machine.

    Raises:
        TargetError: there is no compiler, or it fails.
    """
    path = _SOURCES / source
    options = ["-std=c11", "-O2", "-shared", "-fPIC", "-fvisibility=hidden"]
    _call([*NATIVE.compiler, *options, "-o", str(plugin), str(path)], f"compiling {source}")


def _call(command: Sequence[str], what: str, folder: Path | None = None) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise TargetError(f"{what} failed: {' '.join(command)}\n{result.stderr.strip()}")
