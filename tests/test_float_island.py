"""Float islands against onnxruntime, operator by operator."""

from __future__ import annotations

import ctypes
import subprocess

import numpy as np
import pytest
from float_graphs import check, execute, graph, node, rand, reference
from onnx import TensorProto, helper
from products import with_slack

from qcompiler.bundle.link import link_shared
from qcompiler.errors import ModelError
from qcompiler.lowering.aot import build_object
from qcompiler.lowering.float_island import lower_float
from qcompiler.lowering.program import SLACK

CONVS = {
    "3x3 padded": ((1, 5, 13, 11), (9, 5, 3, 3), {"pads": [1, 1, 1, 1]}),
    "1x1 in place": ((1, 8, 8, 8), (12, 8, 1, 1), {}),
    "1x1 odd size, batch": ((2, 7, 7, 7), (20, 7, 1, 1), {}),
    "1x1 strided": ((1, 4, 9, 10), (6, 4, 1, 1), {"strides": [2, 2]}),
    "3x3 stride 2, uneven pads": ((1, 3, 15, 20), (10, 3, 3, 3), {"strides": [2, 2], "pads": [0, 1, 1, 0]}),
    "stride 3 of a 2x5 kernel": ((1, 2, 17, 19), (3, 2, 2, 5), {"strides": [3, 2], "pads": [1, 2, 0, 1]}),
    "7x7 first layer": ((1, 3, 20, 20), (4, 3, 7, 7), {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
    "dilated, strided": (
        (1, 3, 19, 18),
        (5, 3, 3, 3),
        {"dilations": [2, 3], "strides": [2, 1], "pads": [2, 3, 2, 3]},
    ),
    "depthwise": ((1, 6, 14, 14), (6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "depthwise stride 2, 5x5": (
        (2, 5, 14, 9),
        (5, 1, 5, 5),
        {"group": 5, "strides": [2, 2], "pads": [2, 2, 2, 2]},
    ),
    "grouped": ((1, 12, 6, 7), (18, 4, 3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
    "one output pixel": ((1, 40, 3, 3), (33, 40, 3, 3), {}),
    "one axis": ((2, 6, 31), (8, 3, 4), {"group": 2, "strides": [2], "pads": [1, 2]}),
    "one axis, one pixel": ((1, 16, 1), (4, 16, 1), {}),
}


@pytest.mark.parametrize(
    ("vector_bytes", "part"),
    [(32, 4), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((16, 4), (64, 1)))],
)
def test_convolutions(vector_bytes, part):
    """All forms in one model (every fourth for narrow vectors), with bias, half of them with a chain of operators."""
    nodes, inputs, constants, outputs = [], {}, {}, []
    for i, (x, w, attributes) in enumerate(list(CONVS.values())[::part]):
        inputs[f"x{i}"], constants[f"w{i}"], constants[f"b{i}"] = rand(*x), rand(*w, seed=1), rand(w[0])
        nodes.append(node("Conv", f"x{i},w{i},b{i}", f"c{i}", **attributes))
        outputs.append(f"c{i}")
        if i % 2:
            nodes += [node("Sigmoid", f"c{i}", f"s{i}"), node("Mul", f"c{i},s{i}", f"m{i}")]
            outputs[-1] = f"m{i}"
    check(graph(nodes, inputs, outputs, constants), inputs, vector_bytes)


@pytest.mark.slow
def test_bare_convolutions():
    """Without bias the product itself is the output, whatever its pitch."""
    nodes, inputs, constants, outputs = [], {}, {}, []
    for i, (x, w, attributes) in enumerate(list(CONVS.values())[1::2]):
        inputs[f"x{i}"], constants[f"w{i}"] = rand(*x), rand(*w, seed=1)
        nodes.append(node("Conv", f"x{i},w{i}", f"c{i}", **attributes))
        outputs.append(f"c{i}")
    check(graph(nodes, inputs, outputs, constants), inputs)


MATMULS = [
    ((64, 48), (48, 80)),
    ((1, 33), (33, 77)),
    ((2, 3, 17, 9), (9, 5)),
    ((2, 3, 17, 9), (2, 3, 9, 31)),
    ((3, 1, 8, 16), (2, 16, 32)),
    ((5, 7), (7, 1)),
    ((5, 1), (1, 6)),
    ((9,), (9, 20)),
    ((4, 9), (9,)),
]


@pytest.mark.parametrize("vector_bytes", [16, pytest.param(64, marks=pytest.mark.slow)])
def test_matrix_products(vector_bytes):
    """Second operand constant, then a tensor; the last two come transposed."""
    nodes, inputs, constants, outputs = [], {}, {}, []
    for i, (a, b) in enumerate(MATMULS):
        inputs[f"a{i}"], inputs[f"b{i}"], constants[f"w{i}"] = rand(*a), rand(*b), rand(*b, seed=2)
        nodes += [node("MatMul", f"a{i},w{i}", f"y{i}"), node("MatMul", f"a{i},b{i}", f"z{i}")]
        nodes.append(node("Relu", f"y{i}", f"r{i}"))
        outputs += [f"r{i}", f"z{i}"]
    inputs["k"], constants["c"], constants["w"] = rand(2, 3, 20, 8), rand(30), rand(30, 8)
    nodes += [node("Transpose", "k", "kt", perm=[0, 1, 3, 2]), node("MatMul", "k,kt", "scores")]
    nodes += [
        node("Reshape", "k,rows", "flat"),
        node("Gemm", "flat,w,c", "gemm", transB=1, alpha=0.5, beta=2.0),
    ]
    constants["rows"] = np.array([-1, 8])
    check(graph(nodes, inputs, [*outputs, "scores", "gemm"], constants), inputs, vector_bytes)


def test_reductions_and_normalizations():
    x, image = rand(3, 5, 77), rand(1, 6, 14, 15)
    nodes = [
        node("ReduceSum", "x,last", "sum", keepdims=0),
        node("ReduceMean", "x,middle", "mean"),
        node("ReduceMax", "x,last", "max"),
        node("ReduceMin", "x,middle", "min"),
        node("ReduceL2", "x,last", "norm"),
        node("ArgMax", "x", "argmax", axis=-1),
        node("Softmax", "x", "softmax", axis=-1),
        node("Softmax", "x", "softmax_middle", axis=1),
        node("LogSoftmax", "x", "log_softmax", axis=2),
        node("LayerNormalization", "x,scale,shift", "layer_norm", axis=-1),
        node("LayerNormalization", "x,scale", "layer_norm_2,layer_mean,layer_inverse", axis=2, epsilon=1e-3),
        node("InstanceNormalization", "image,six,six", "instance_norm"),
        node("BatchNormalization", "image,six,six,mean6,var6", "batch_norm"),
        node("LRN", "image", "lrn", size=5, alpha=0.1, beta=0.75),
        node("LpNormalization", "image", "lp", axis=1),
        node("MaxPool", "image", "max_pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("MaxPool", "image", "max_pool_ceil", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("AveragePool", "image", "average_pool", kernel_shape=[3, 2], pads=[1, 0, 1, 1]),
        node("GlobalAveragePool", "image", "global_pool"),
    ]
    constants = {
        "last": np.array([-1]),
        "middle": np.array([1]),
        "scale": rand(77),
        "shift": rand(77, seed=1),
        "six": rand(6),
        "mean6": rand(6, seed=1),
        "var6": np.abs(rand(6, seed=2)) + 0.1,
    }
    inputs = {"x": x, "image": image}
    check(graph(nodes, inputs, [n.output[0] for n in nodes], constants), inputs)


@pytest.mark.parametrize(("size", "beta"), [(5, 0.75), (3, 0.5), (7, 1.0), (5, 0.9), (11, 0.75)])
def test_local_response_normalization(size, beta):
    """Powers made of square roots, and others; the last window is wider than the channels."""
    inputs = {"x": rand(2, 9, 5, 6)}
    nodes = [node("LRN", "x", "y", size=size, alpha=0.3, beta=beta, bias=1.5)]
    check(graph(nodes, inputs, ["y"]), inputs)


def test_elementwise_and_movement():
    inputs = {
        "x": rand(2, 6, 9, 10),
        "y": rand(6, 1, 1),
        "i": np.array([[3, -1, 0], [5, 2, -6]]),
        "n": np.arange(24, dtype=np.int64).reshape(4, 6),
        "flag": rand(2, 6, 9, 10) > 0,
    }
    unary = [
        "Exp",
        "Tanh",
        "Erf",
        "Softplus",
        "Floor",
        "Abs",
        "HardSwish",
        "Elu",
        "Celu",
        "Selu",
        "Mish",
        "Gelu",
    ]
    unary += ["Sign", "Ceil", "Round", "Neg", "LeakyRelu", "Sin", "Cos", "Atan", "Sinh", "Cosh"]
    nodes = [node(op, "x", op) for op in unary]
    nodes += [
        node("Abs", "x", "size"),
        *(node(op, "size", f"{op}_size") for op in ("Sqrt", "Log", "Reciprocal")),
        node("Pow", "x,two", "square"),
        node("Pow", "size,third", "root"),
        node("Add", "x,y", "sum"),
        node("Div", "x,size", "quotient"),
        node("Clip", "x,low,high", "clip"),
        node("Clip", "x,,high", "clip_above"),
        node("Sum", "x,y,size", "three"),
        node("Mean", "x,y,size", "mean"),
        node("Max", "x,y", "larger"),
        node("Min", "x,y,size", "smallest"),
        node("Where", "flag,x,y", "where"),
        node("Greater", "x,y", "greater"),
        node("Not", "flag", "not"),
        node("Cast", "flag", "cast", to=TensorProto.FLOAT),
        node("Cast", "x", "int", to=TensorProto.INT32),
        node("Concat", "x,sum", "concat_last", axis=-1),
        node("Concat", "x,x,sum", "concat", axis=1),
        node("Slice", "x,start,stop,axes,step", "slice"),
        node("Slice", "n,first,second,axis0", "slice_int"),
        node("Concat", "n,slice_int", "concat_int", axis=0),
        node("Pad", "x,pads", "pad"),
        node("Pad", "x,pads", "pad_reflect", mode="reflect"),
        node("Pad", "x,pads", "pad_edge", mode="edge"),
        node("Gather", "table,i", "gather"),
        node("Gather", "x,picks", "gather_axis", axis=2),
        node("Transpose", "x", "transpose", perm=[0, 3, 1, 2]),
        node("Reshape", "x,shape", "reshape"),
        node("Split", "x", "split_a,split_b,split_c", axis=1, num_outputs=3),
        node("Tile", "y,reps", "tile"),
        node("Expand", "y,expanded", "expand"),
        node("DepthToSpace", "deep", "depth_to_space", blocksize=2),
        node("Resize", "x,,scales", "nearest", mode="nearest", coordinate_transformation_mode="asymmetric"),
        node("Resize", "x,,scales", "linear", mode="linear", coordinate_transformation_mode="half_pixel"),
        node("Resize", "x,,,sizes", "align", mode="linear", coordinate_transformation_mode="align_corners"),
        node("Resize", "x,,,height", "one_axis", mode="linear", axes=[2]),
        node("CumSum", "x,axis1", "cumsum"),
        node("Pow", "x,exponent", "cube"),
        node("IsInf", "infinite", "is_negative_inf", detect_positive=0),
        node("LpNormalization", "zeros", "lp_of_zero", axis=1),
        node("ConvTranspose", "x,up", "transposed", strides=[2, 2], output_shape=[18, 21]),
        node("PRelu", "x,y", "prelu"),
    ]
    inputs["deep"] = rand(1, 8, 3, 5)
    inputs["infinite"] = np.array([np.inf, -np.inf, 1], np.float32)
    constants = {
        "two": np.float32(2),
        "third": np.float32(1 / 3),
        "low": np.float32(-0.5),
        "high": np.float32(0.7),
        "start": np.array([1, 8]),
        "stop": np.array([6, -20]),
        "axes": np.array([1, 3]),
        "step": np.array([2, -3]),
        "first": np.array([1]),
        "second": np.array([3]),
        "axis0": np.array([0]),
        "axis1": np.array(1),
        "pads": np.array([0, 0, 2, 1, 0, 0, 1, 3]),
        "table": rand(6, 11),
        "picks": np.array([8, 0, -1]),
        "shape": np.array([3, -1, 5]),
        "reps": np.array([2, 3, 4]),
        "expanded": np.array([2, 6, 3, 5]),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "sizes": np.array([2, 6, 5, 17]),
        "height": np.array([13]),
        "exponent": np.array(3),
        "zeros": np.zeros((2, 3), np.float32),
        "up": rand(6, 2, 3, 3),
    }
    outputs = [name for n in nodes for name in n.output]
    check(graph(nodes, inputs, outputs, constants), inputs)


RECURRENT = [
    ("LSTM", 4, 2, {}),
    ("LSTM", 4, 2, {"direction": "bidirectional"}),
    ("GRU", 3, 1, {"direction": "reverse"}),
    ("GRU", 3, 1, {"direction": "bidirectional", "linear_before_reset": 1}),
    ("RNN", 1, 1, {"activations": ["Relu"]}),
]


@pytest.mark.slow
def test_recurrent_layers():
    nodes, inputs, constants, outputs = [], {}, {}, []
    steps, batch, size, hidden = 2, 2, 5, 16
    for i, (op, gates, states, attributes) in enumerate(RECURRENT):
        directions = 2 if attributes.get("direction") == "bidirectional" else 1
        inputs[f"x{i}"] = rand(steps, batch, size, seed=i)
        constants[f"w{i}"] = rand(directions, gates * hidden, size) * 0.5
        constants[f"r{i}"] = rand(directions, gates * hidden, hidden) * 0.5
        constants[f"b{i}"] = rand(directions, 2 * gates * hidden) * 0.5
        names = [f"x{i}", f"w{i}", f"r{i}", f"b{i}"]
        if i != 0:
            names.append("")
            for s in range(states):
                inputs[f"s{i}{s}"] = rand(directions, batch, hidden, seed=s)
                names.append(f"s{i}{s}")
        if op == "LSTM" and directions == 2:
            constants[f"p{i}"] = rand(directions, 3 * hidden)
            names.append(f"p{i}")
        results = [f"y{i}", f"h{i}", f"c{i}"][: 1 + states]
        nodes.append(helper.make_node(op, names, results, name=f"rnn{i}", hidden_size=hidden, **attributes))
        outputs += results
    check(graph(nodes, inputs, outputs, constants), inputs)


def test_outputs_that_no_kernel_writes():
    """An input, a constant, one value under two names, a view of an input."""
    inputs = {"x": rand(2, 3), "n": np.array([4, 5])}
    nodes = [
        node("Identity", "x", "same"),
        node("Relu", "x", "relu"),
        node("Identity", "relu", "relu_again"),
        node("Reshape", "x,shape", "view"),
        node("Reshape", "relu,shape", "relu_view"),
        node("Identity", "constant", "fixed"),
        node("Identity", "n", "integers"),
    ]
    constants = {"shape": np.array([6]), "constant": rand(5)}
    outputs = ["same", "relu", "relu_again", "view", "relu_view", "fixed", "integers"]
    check(graph(nodes, inputs, outputs, constants), inputs)


def test_errors_name_the_node():
    x = {"x": rand(4, 4)}
    model = graph([node("Relu", "x", "r"), node("NonZero", "r", "y")], x, ["y"])
    with pytest.raises(ModelError, match=r"the_NonZero.*NonZero"):
        lower_float(model)
    model = graph([node("Relu", "x", "r"), node("Det", "r", "y")], x, ["y"])
    with pytest.raises(ModelError, match=r"the_Det.*Det"):
        lower_float(model)
    small = {"x": rand(1, 1, 8, 8)}
    resize = node("Resize", "x,,half", "y", mode="linear", antialias=1)
    with pytest.raises(ModelError, match=r"the_Resize.*antialias"):
        lower_float(graph([resize], small, ["y"], {"half": np.array([1, 1, 0.5, 0.5], np.float32)}))
    with pytest.raises(ModelError, match=r"the_TopK.*run-time library"):
        lower_float(graph([node("TopK", "x,k", "y,i")], x, ["y"], {"k": np.array([2])}))
    sequence = {"x": rand(2, 1, 3), "w": rand(1, 8, 3), "r": rand(1, 8, 2)}
    model = graph([node("LSTM", "x,w,r", "y", hidden_size=2)], sequence, ["y"])
    with pytest.raises(ModelError, match=r"the_LSTM.*input 1 \('w'\).*constant"):
        lower_float(model)


@pytest.mark.parametrize(
    ("nodes", "size"),
    [
        ([node("Softmax", "x", "y", axis=-1)], 4 * 8 * 64),
        ([node("Conv", "x,w", "c"), node("Relu", "c", "y")], 0),
        ([node("Conv", "x,w", "c"), node("Add", "c,x", "y")], 0),
    ],
)
def test_results_are_finished_in_place(nodes, size):
    """No memory for a whole tensor besides the outputs: a number for each row of the softmax at most."""
    x = rand(1, 8, 8, 64) if size else rand(1, 8, 8, 8)
    model = graph(nodes, {"x": x}, ["y"], {"w": rand(8, 8, 1, 1)} if not size else {})
    program = lower_float(model, 16)
    found = execute(program, {"x": x})["y"]
    np.testing.assert_allclose(found, reference(model, {"x": x})["y"], rtol=1e-5, atol=1e-6)
    compiled = build_object(program, {"kind": "llvm", "mtriple": "x86_64-linux-gnu"})
    assert compiled.plan.arena_bytes <= size + 2 * SLACK


def test_ahead_of_time(tmp_path):
    """The object needs no library but the C library's mathematics, and runs on an arena full of NaN."""
    inputs = {"x": rand(1, 8, 40, 40), "y": rand(3, 7)}
    nodes = [
        node("Conv", "x,w", "c", pads=[1, 1, 1, 1]),
        node("Sigmoid", "c", "s"),
        node("Softmax", "s", "m", axis=-1),
        node("MatMul", "m,v", "p"),
        node("Log", "m", "l"),
        node("MatMul", "y,u", "q"),
    ]
    constants = {"w": rand(16, 8, 3, 3), "v": rand(40, 19), "u": rand(7, 33)}
    model = graph(nodes, inputs, ["p", "l", "q"], constants)
    program = lower_float(model, 32)
    compiled = build_object(program, {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"})
    paths = [tmp_path / f"{i}.o" for i in range(len(compiled.objects))]
    for path, code in zip(paths, compiled.objects, strict=True):
        path.write_bytes(code)
    kernels = subprocess.run(["nm", "-u", str(paths[0])], capture_output=True, text=True, check=True).stdout
    assert {line.split()[-1] for line in kernels.splitlines()} <= {"logf", "memset", "memcpy"}
    link_shared(paths, tmp_path / "libmodel.so", ["model_run"])
    arrays = [with_slack(inputs[name]) for name in program.inputs]
    results = [with_slack(np.full(program.buffers[n].shape, np.nan, np.float32)) for n in program.outputs]
    weights = with_slack(compiled.weights.blob)
    arena = with_slack(np.full(compiled.plan.arena_bytes // 4 + 1, np.nan, np.float32))
    pointers = [(ctypes.c_void_p * len(group))(*(a.ctypes.data for a in group)) for group in (arrays, results)]
    run = ctypes.CDLL(str(tmp_path / "libmodel.so")).model_run
    assert run(*pointers, ctypes.c_void_p(weights.ctypes.data), ctypes.c_void_p(arena.ctypes.data)) == 0
    for name, found in zip(program.outputs, results, strict=True):
        np.testing.assert_allclose(found, reference(model, inputs)[name], rtol=1e-4, atol=1e-5)
