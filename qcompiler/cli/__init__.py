"""The command `qcompiler`. Only argument parsing is imported before a command runs, so `--help` is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from qcompiler.cli.parser import build_parser
from qcompiler.errors import QCompilerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 2 after bad input (message on stderr), 130 if interrupted.

    Faults of the compiler itself are not caught: their traceback is what a report needs.
    """
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has seen enough; nor may the exit flush fail
        return 0
    except QCompilerError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
    except KeyboardInterrupt:
        return 130
    return 0


def _failed(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
