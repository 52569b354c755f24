"""Runs inside the emulator: `arm_litert.py MODEL.tflite INPUTS.npz RUNS` runs a model in LiteRT, on one thread.

The arrays of INPUTS.npz are named by the index of the tensor. `getppid` between the runs marks them for
`count_marks.c`. LiteRT gives all it can to XNNPACK.
"""

from __future__ import annotations

import os
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main() -> None:
    model, inputs, runs = sys.argv[1:]
    interpreter = Interpreter(model, num_threads=1)
    interpreter.allocate_tensors()
    with np.load(inputs) as arrays:
        for index, value in arrays.items():
            interpreter.set_tensor(int(index), value)
    for _ in range(int(runs)):
        os.getppid()
        interpreter.invoke()
    os.getppid()


if __name__ == "__main__":
    main()
