"""Runs inside the emulator: `arm_peer.py MODEL INPUTS.npz RUNS` runs a model in onnxruntime, on one thread.

`getppid` between the runs marks them for `count_marks.c`.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import onnxruntime


def main() -> None:
    model, inputs, runs = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    with np.load(inputs) as arrays:
        for name, value in arrays.items():
            binding.bind_cpu_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    for _ in range(int(runs)):
        os.getppid()
        session.run_with_iobinding(binding)
    os.getppid()


if __name__ == "__main__":
    main()
