"""The command `explore`: a page that shows a bundle's IR after each pass."""

from __future__ import annotations

from argparse import Namespace

import qcompiler
from qcompiler.cli.files import replacing
from qcompiler.cli.output import bytes_text, print_json
from qcompiler.cli.progress import progress


def explore_command(options: Namespace) -> None:
    from qcompiler.report.explore import explore

    with progress(options.quiet) as shown:
        bundle = qcompiler.load_bundle(options.bundle, emulate=options.emulate)
        text = explore(bundle, data=options.data, limit=options.limit, measure=options.measure, progress=shown)
    with replacing(options.output) as file:
        file.write(text.encode())
    size = options.output.stat().st_size
    if options.json:
        print_json({"output": str(options.output), "bytes": size})
    else:
        print(f"{options.bundle} -> {options.output}, {bytes_text(size)}; open it in a browser")
