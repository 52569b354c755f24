"""A folder with a 64-bit ARM Debian userland: Python and the aarch64 wheels of a peer, for the emulator.

    python benchmarks/arm_userland.py [--root ~/.cache/qcompiler/arm64]

`apt-get`, with a configuration of its own, takes the packages from the sources of this machine, which has to be a
Debian with Python 3.11 (bookworm); nothing is installed and no root rights are needed. Takes 300 MB; a later call takes
what is there. Programs run under `qemu-aarch64 -L`, which looks for files in the folder first, /proc/cpuinfo too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path.home() / ".cache" / "qcompiler" / "arm64"
PYTHON = "3.11"

_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
_APT = """\
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
Dir::State "{root}/apt";
Dir::State::status "{root}/apt/status";
Dir::Cache "{root}/apt";
"""
_CPUINFO = """\
processor\t: 0
BogoMIPS\t: 50.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part:#x}
CPU revision\t: 0

"""
_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"


@dataclass(frozen=True)
class Core:
    """A core: QEMU's value of `-cpu`, its part number (Arm's technical reference manual), and further features."""

    qemu: str
    part: int
    features: str = ""


CORES = {
    "dotprod": Core("cortex-a76", 0xD0B),
    "i8mm": Core("max,sme=off,sve-default-vector-length=16", 0xD49, "sve i8mm bf16 sve2 svei8mm svebf16"),
}
"""For each instruction set of the targets. QEMU 7.2 knows no core with i8mm; what a Neoverse N2 has not, SME and
vectors of more than 128 bits, is taken from the core that has everything."""


@dataclass(frozen=True)
class Peer:
    """What is compared with: its wheels, its Python module, and the folder in the root that they are installed in."""

    wheels: tuple[str, ...]
    module: str
    site: str


ONNXRUNTIME = Peer(("onnxruntime==1.31.1", "numpy==2.4.6"), "onnxruntime", "site")
LITERT = Peer(("ai-edge-litert==2.3.0", "numpy==2.4.6"), "ai_edge_litert.interpreter", "litert")


@dataclass(frozen=True)
class Userland:
    """`system` is the folder that stands for `/`, `site` has the wheels."""

    system: Path
    site: Path

    def command(self, core: Core, options: Sequence[str], arguments: Sequence[str]) -> list[str]:
        """What runs the ARM Python on one thread of a core, with further options of the emulator."""
        cpuinfo = self.system / "proc" / "cpuinfo"
        cpuinfo.parent.mkdir(exist_ok=True)
        cpuinfo.write_text(_CPUINFO.format(part=core.part, features=f"{_FEATURES} {core.features}".strip()), "ascii")
        variables = {"PYTHONPATH": self.site, "PYTHONHASHSEED": 0, "OMP_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1}
        environment = [text for name, value in variables.items() for text in ("-E", f"{name}={value}")]
        program = str(self.system / "usr" / "bin" / f"python{PYTHON}")
        emulator = ["qemu-aarch64", "-cpu", core.qemu, *options, "-L", str(self.system), *environment]
        return [*emulator, program, *arguments]


def userland(root: Path = ROOT, peer: Peer = ONNXRUNTIME) -> Userland:
    """The userland in `root` with the wheels of `peer`, built unless it is there.

    Raises:
        CalledProcessError: a package or wheel cannot be had.
    """
    found = Userland(root / "system", root / peer.site)
    if not (found.system / "usr" / "bin" / f"python{PYTHON}").exists():
        _unpack_packages(root, found.system)
    done = root / f"{peer.site}.txt"
    if not done.exists() or done.read_text("ascii").split() != list(peer.wheels):
        options = [text for platform in _PLATFORMS for text in ("--platform", platform)]
        command = [sys.executable, "-m", "pip", "install", "-q", "--upgrade", "--target", str(found.site), *options]
        subprocess.run([*command, "--python-version", PYTHON, "--only-binary=:all:", *peer.wheels], check=True)
        # so that no run that is counted compiles Python files
        subprocess.run(found.command(CORES["dotprod"], [], ["-c", f"import {peer.module}"]), check=True)
        done.write_text("\n".join(peer.wheels), "ascii")
    return found


def _unpack_packages(root: Path, system: Path) -> None:
    state = root / "apt"
    for folder in (state / "lists" / "partial", state / "archives" / "partial", system):
        folder.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    configuration = root / "apt.conf"
    configuration.write_text(_APT.format(root=root), "utf-8")
    apt = ["apt-get", "-q", "-c", str(configuration)]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "install", "--download-only", "-y", f"python{PYTHON}", "libstdc++6"], check=True)
    for package in sorted((state / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(system)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT)
    found = userland(parser.parse_args().root.absolute())
    code = "import onnxruntime; print('onnxruntime', onnxruntime.__version__)"
    subprocess.run(found.command(CORES["dotprod"], [], ["-c", code]), check=True)


if __name__ == "__main__":
    main()
