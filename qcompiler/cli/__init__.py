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
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), 1
        )  # the reader has seen enough; nor may the exit flush fail
        return 0
    except (QCompilerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
