"""The programs of this machine that a target's bundles are made and tried with, as data."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from qcompiler.errors import TargetError

Command = tuple[str, ...]
"""The name of a program in PATH, and its first arguments."""


@dataclass(frozen=True)
class Toolchain:
    """What turns object code into libraries and programs for a target; of several commands the first found is taken.

    `install` is the line that installs all of it.
    """

    install: str
    compilers: tuple[Command, ...]
    """C compilers, which also link, with the target's C library."""
    linkers: tuple[Command, ...]
    """Linkers with the options of GNU ld, taken for libraries where there is no compiler."""
    archivers: tuple[Command, ...]
    """Programs with the options of GNU ar."""
    disassemblers: tuple[Command, ...] = ()
    """Programs with the options of GNU objdump."""
    emulator: Command = ()
    """What runs a static executable of the target here; its name and arguments follow."""
    runtime: str = ""
    """Folder of `qcompiler/bundle/c` whose headers and sources stand for the C library, where `compilers` have none.
    Libraries then leave functions undefined, which the machine's own C library has."""
    launcher: str = "parallel.c"
    """Of `qcompiler/bundle/c`: the launcher that bundles compiled with threads have."""

    @property
    def compiler(self) -> Command:
        """Raises TargetError if there is none."""
        return self.find("C compiler", self.compilers)

    @property
    def archiver(self) -> Command:
        """Raises TargetError if there is none."""
        return self.find("archiver", self.archivers)

    def find(self, what: str, commands: Sequence[Command]) -> Command:
        """The first command whose program is in PATH.

        Raises:
            TargetError: there is none; `what` says in the message what it is for.
        """
        found = next((command for command in commands if shutil.which(command[0])), None)
        if found is None:
            names = ", ".join(command[0] for command in commands)
            raise TargetError(f"no {what} found (looked for {names} in PATH); install one: {self.install}")
        return found


NATIVE = Toolchain(
    install="apt-get install gcc",
    compilers=(("cc",), ("gcc",), ("clang",)),
    linkers=(("ld",),),
    archivers=(("ar",), ("llvm-ar",)),
)
"""Of targets that this machine runs itself."""

AARCH64_LINUX = Toolchain(
    install="apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user",
    compilers=(("aarch64-linux-gnu-gcc",), ("clang", "--target=aarch64-linux-gnu", "-fuse-ld=lld")),
    linkers=(("ld.lld",),),
    archivers=(("aarch64-linux-gnu-ar",), ("llvm-ar",)),
    disassemblers=(("aarch64-linux-gnu-objdump",), ("llvm-objdump",), ("llvm-objdump-19",)),
    emulator=("qemu-aarch64",),
)


def hexagon_toolchain(version: str) -> Toolchain:
    """Of a Hexagon version, such as v66; the emulator plays v67 for the later ones, whose integer code it runs.

    Clang and LLVM's tools know versions up to v73 from their release 19 on.
    """
    emulator = ("qemu-hexagon", *(() if version == "v66" else ("-cpu", "v67")))
    version = min(version, "v73")
    listing = (f"--mcpu=hexagon{version}", f"--mattr=+hvx{version},+hvx-length128b")
    flags = ("--target=hexagon-unknown-linux-musl", f"-mcpu=hexagon{version}", f"-mhvx={version}")
    freestanding = (*flags, "-mhvx-length=128b", "-ffreestanding", "-fno-builtin", "-nostdlib", "-G0", "-fuse-ld=lld")
    return Toolchain(
        install="apt-get install clang-19 lld-19 llvm-19 qemu-user",
        compilers=tuple((clang, *freestanding) for clang in ("clang-19", "clang-20", "clang-18", "clang")),
        linkers=(),
        archivers=(("llvm-ar",), ("llvm-ar-19",), ("ar",)),
        disassemblers=(("llvm-objdump-19", *listing), ("llvm-objdump", *listing)),
        emulator=emulator,
        runtime="hexagon",
        launcher="in_turn.c",
    )
