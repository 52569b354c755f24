"""Loops of float kernels: the elementary functions in them, and how they cut an axis into vectors."""

from __future__ import annotations

from math import erf

import numpy as np
import pytest
import tvm
from float_graphs import FULL
from tvm import tirx

from qcompiler.lowering.float_loops import Axis, Nest, chunks, emit

FUNCTIONS = {
    "exp": (np.exp, 1.1),
    "tanh": (np.tanh, 1.5),
    "erf": (np.vectorize(erf), 1.3),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 2.5),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementary_functions(name):
    """Units in the last place against float64, and the values at infinity and NaN."""
    function, limit = FUNCTIONS[name]
    spread = np.geomspace(1e-30, 1, 5000)
    special = [np.inf, -np.inf, np.nan, 0, -0.0, 200, -200]
    x = np.concatenate([np.linspace(-87, 88, 40001), np.linspace(-5, 5, 40001), spread, -spread, special])
    x = x.astype(np.float32)
    source, target = tirx.decl_buffer(x.shape, "float32", "x"), tirx.decl_buffer(x.shape, "float32", "y")
    i = Axis(tirx.Var("i", "int64"), x.size)
    value = getattr(tirx, name)(tirx.BufferLoad(source, [i.var]))
    func = tirx.PrimFunc([source, target], emit(Nest((i,), (), target, i.var, value), 16))
    library = tvm.compile(func.with_attr("s_tir", True).with_attr("global_symbol", "main"), target=FULL)
    result = tvm.runtime.tensor(np.zeros_like(x))
    library(tvm.runtime.tensor(x), result)
    found = result.numpy()
    with np.errstate(over="ignore"):
        expected = function(x.astype(np.float64))
        unit = np.spacing(np.abs(expected[:-7]).astype(np.float32)).astype(np.float64)
        rounded = expected[-7:].astype(np.float32)
    assert np.max(np.abs(found[:-7] - expected[:-7]) / unit) <= limit
    np.testing.assert_allclose(found[-7:], rounded, rtol=1e-6)


@pytest.mark.parametrize("extent", [1, 15, 16, 17, 64, 100, 197])
def test_chunks_cover_every_position_once(extent):
    covered = [p for start, width, count in chunks(extent, 16, 4) for p in range(start, start + width * count)]
    assert covered == list(range(extent))
