"""The command `sensitivity`: a table of what quantizing each tensor costs at the outputs, worst first."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

import qcompiler
from qcompiler.cli.options import quantization
from qcompiler.cli.output import print_json, print_table
from qcompiler.cli.progress import progress


def sensitivity_command(options: Namespace) -> None:
    from qcompiler.sensitivity import measure_sensitivity

    with progress(options.quiet) as shown:
        model = qcompiler.import_onnx(options.model, dict(options.shape))
        found = measure_sensitivity(
            model,
            options.calibration,
            samples=options.samples,
            target=options.target,
            progress=shown,
            **quantization(options),
        )
    if options.json:
        sites = [asdict(site) for site in found.sites]
        print_json({"source": model.source, "samples": found.samples, "total": found.total, "sites": sites})
        return
    rows = [
        (
            site.name,
            f"{site.kind} of {site.op}" if site.op else "input",
            site.storage,
            f"{site.alone:.1f}",
            f"{site.without - found.total:+.1f}",
            _remedy(site.kind, site.obstacle),
        )
        for site in found.sites[: options.top]
    ]
    print_table(
        f"{options.model}: {found.total:.1f} dB at the outputs with everything quantized, on {found.samples} samples",
        ("tensor", "what", "type", ">alone, dB", ">gain in float, dB", "16 bits"),
        rows,
    )


def _remedy(kind: str, obstacle: str) -> str:
    return "-" if kind != "activation" else f"no: {obstacle}" if obstacle else "possible"
