"""Float islands against onnxruntime, operator by operator and on whole models."""

from __future__ import annotations

import ctypes
import subprocess
from math import erf
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import tirx
from tvm.sym import Analyzer
from tvm_ffi import StructuralKey, structural_map

from qcompiler.bundle.link import link_shared
from qcompiler.errors import ModelError
from qcompiler.ir.opset import OPSET
from qcompiler.lowering.aot import build_object
from qcompiler.lowering.float_island import lower_float
from qcompiler.lowering.float_loops import Axis, Nest, chunks, emit, loads
from qcompiler.lowering.program import ALIGNMENT, SLACK, Program

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models"
QUICK = {"kind": "llvm", "opt-level": 1}
FULL = {"kind": "llvm", "opt-level": 3}
TYPES = {
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
}


def execute(program: Program, feeds: dict[str, np.ndarray], target: dict = QUICK) -> dict[str, np.ndarray]:
    """Runs the steps one after the other; every buffer is filled with a wrong value before it is written."""
    keys = [StructuralKey(step.kernel.func) for step in program.steps]
    names = {key: f"kernel{i}" for i, key in enumerate(dict.fromkeys(keys))}
    functions = {name: key.key.with_attr("global_symbol", name) for key, name in names.items()}
    library = tvm.compile(tvm.IRModule(functions), target=target)
    values = {name: tvm.runtime.tensor(feeds[name].reshape(-1)) for name in program.inputs}
    for key, step in zip(keys, program.steps, strict=True):
        for name in step.outputs:
            buffer = program.buffers[name]
            size = int(np.prod(buffer.shape))
            values[name] = tvm.runtime.tensor(np.full(size, 99).astype(buffer.dtype))
        constants = [tvm.runtime.tensor(constant.reshape(-1)) for constant in step.kernel.constants]
        library[names[key]](*(values[n] for n in step.inputs), *constants, *(values[n] for n in step.outputs))
    return {name: values[name].numpy().reshape(program.buffers[name].shape) for name in program.outputs}


def reference(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def check(
    model: onnx.ModelProto,
    feeds: dict[str, np.ndarray],
    vector_bytes: int = 64,
    tolerance: float = 2e-5,
    target: dict = QUICK,
) -> None:
    """Compares with onnxruntime: integers exactly, floats relative to the largest value of each output."""
    expected = reference(model, feeds)
    program = lower_float(model, vector_bytes)
    assert program.inputs == [i.name for i in model.graph.input]
    assert program.outputs == [o.name for o in model.graph.output]
    for step in program.steps:
        assert_accesses_inside(step.kernel.func)
    found = execute(program, feeds, target)
    for name, value in expected.items():
        assert found[name].shape == value.shape and found[name].dtype == value.dtype, name
        if value.dtype.kind == "f":
            limit = tolerance * max(float(np.abs(value).max(initial=0)), 1e-3)
            np.testing.assert_allclose(found[name], value, rtol=0, atol=limit, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def assert_accesses_inside(func: tirx.PrimFunc) -> None:
    """Proves that no access leaves its buffer. Skips what depends on data: gathered places and guarded loads."""
    analyzer, guarded = Analyzer(), []

    def bind(loop: tirx.For):
        analyzer.bind(loop.loop_var, tvm.ir.Range(loop.min, loop.extent))
        return loop

    def call(node: tvm.ir.Call):
        guarded.append(isinstance(node.op, tvm.ir.Op) and node.op.name == "prim.if_then_else")
        return node

    def inside(buffer: tirx.Var, index: tvm.ir.Expr) -> None:
        base, lanes = (index.base, int(index.lanes)) if isinstance(index, tirx.Ramp) else (index, 1)
        bound = analyzer.const_int_bound(analyzer.simplify(base))
        size = int(buffer.shape[0])
        assert loads(base) or (bound.min_value >= 0 and bound.max_value + lanes <= size), (
            f"{buffer.name}[{index}] of {size}"
        )

    structural_map(func.body, [(tirx.For, bind), (tvm.ir.Call, call)], order="pre")
    accesses = [(tirx.BufferStore, lambda store: inside(store.buffer, store.indices[0]) or store)]
    if not any(guarded):
        accesses.append((tvm.ir.TensorLoad, lambda load: inside(load.source, load.indices[0]) or load))
    structural_map(func.body, accesses)


def graph(nodes, inputs: dict[str, np.ndarray], outputs: list[str], constants: dict | None = None) -> onnx.ModelProto:
    """A model at the compiler's opset; the outputs' types come from shape inference."""
    ins = [helper.make_tensor_value_info(k, TYPES[str(v.dtype)], v.shape) for k, v in inputs.items()]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    loose = [onnx.ValueInfoProto(name=name) for name in outputs]
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(helper.make_graph(nodes, "g", ins, loose, tensors), opset_imports=opsets, ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def node(op: str, inputs: str, outputs: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(","), outputs.split(","), name=f"the_{op} of {outputs}", **attributes)


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


@pytest.mark.parametrize(("vector_bytes", "part"), [(16, 4), (32, 4), (64, 1)])
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


@pytest.mark.parametrize("vector_bytes", [16, 64])
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


FORMS = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SCALES = ((1.7, 0.6), (2.0, 3.0), (0.5, 1 / 3))
RESIZES = [
    *(
        ("nearest", form, {"nearest_mode": rounding}, scale)
        for form in FORMS
        for rounding in ROUNDINGS
        for scale in SCALES
    ),
    *((mode, form, {}, scale) for mode in ("linear", "cubic") for form in FORMS for scale in SCALES),
    ("cubic", "half_pixel", {"cubic_coeff_a": -0.5, "exclude_outside": 1}, (1.7, 0.6)),
]


def resize_of(cases):
    """A model of resizes by scales whose products are no whole sizes, and to sizes; and an input."""
    x, nodes, constants = rand(1, 3, 7, 9), [], {"sizes": np.array([1, 3, 11, 4]), "two": np.array([11, 4])}
    for number, (mode, form, attributes, scale) in enumerate(cases):
        constants[f"s{number}"] = np.array([1, 1, *scale], np.float32)
        attributes = {"mode": mode, "coordinate_transformation_mode": form, **attributes}
        nodes.append(node("Resize", f"x,,s{number}", f"y{number}", **attributes))
        if scale == SCALES[0]:
            nodes.append(node("Resize", "x,,,sizes", f"z{number}", **attributes))
    for policy in ("not_larger", "not_smaller"):
        kept = {"keep_aspect_ratio_policy": policy, "axes": [2, 3], "mode": "linear"}
        nodes.append(node("Resize", "x,,,two", policy, **kept))
    inputs = {"x": x, "line": rand(2, 3, 9), "volume": rand(1, 2, 3, 4, 5)}
    constants |= {"s1d": np.float32([1, 1, 1.7]), "s3d": np.float32([1, 1, 1.7, 0.6, 2])}
    nodes.append(node("Resize", "line,,s1d", "longer", mode="linear"))
    nodes.append(node("Resize", "volume,,s3d", "larger", mode="nearest"))
    return graph(nodes, inputs, [n.output[0] for n in nodes], constants), inputs


def test_resize():
    check(*resize_of(RESIZES[::7]))
    x = {"x": rand(1, 3, 4, 4)}
    model = graph([node("Resize", "x,,s", "y")], x, ["y"], {"s": np.float32([1, 2, 1, 1])})
    with pytest.raises(ModelError, match=r"the_Resize.*first two axes"):
        lower_float(model)


@pytest.mark.slow
@pytest.mark.parametrize("vector_bytes", [16, 64])
def test_all_resizes(vector_bytes):
    check(*resize_of(RESIZES), vector_bytes)


RECURRENT = [
    ("LSTM", 4, 2, {}),
    ("LSTM", 4, 2, {"direction": "bidirectional"}),
    ("GRU", 3, 1, {"direction": "reverse"}),
    ("GRU", 3, 1, {"direction": "bidirectional", "linear_before_reset": 1}),
    ("RNN", 1, 1, {"activations": ["Relu"]}),
]


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
    arrays = [_aligned(inputs[name]) for name in program.inputs]
    results = [_aligned(np.full(program.buffers[n].shape, np.nan, np.float32)) for n in program.outputs]
    weights = _aligned(compiled.weights.blob)
    arena = _aligned(np.full(compiled.plan.arena_bytes // 4 + 1, np.nan, np.float32))
    pointers = [(ctypes.c_void_p * len(group))(*(a.ctypes.data for a in group)) for group in (arrays, results)]
    run = ctypes.CDLL(str(tmp_path / "libmodel.so")).model_run
    assert run(*pointers, ctypes.c_void_p(weights.ctypes.data), ctypes.c_void_p(arena.ctypes.data)) == 0
    for name, found in zip(program.outputs, results, strict=True):
        np.testing.assert_allclose(found, reference(model, inputs)[name], rtol=1e-4, atol=1e-5)


def _aligned(array: np.ndarray) -> np.ndarray:
    memory = np.zeros(array.nbytes + SLACK + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


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


WHOLE_MODELS = [
    "kws_dscnn", "minilm_l6_s64_f16store", "mnist", "mobilenetv1_075_224", "mobilenetv2_100_224", "resnet8_cifar10",
    "silero_vad_16k", "squeezenet1.1", "stories260K_s128", "ultraface_rfb320", "vww_mobilenetv1_025_96",
    "yolox_nano_416",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.parametrize("name", WHOLE_MODELS)
def test_whole_models(name):
    """Each real model as one island."""
    path = MODELS / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    check(*_normalized(onnx.load(path)), tolerance=3e-4, target=FULL)


LIGHT_MODELS = [
    "bvlc_alexnet",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "zfnet512",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT_MODELS)
def test_light_models(name):
    """Real topologies from the onnx package, weights drawn so that activations keep their size."""
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    model = onnx.load(path)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    kept = []
    for n in model.graph.node:
        if n.op_type == "ConstantOfShape":
            shape = shapes[n.input[0]]
            values = np.full(shape, 0.01, np.float32)
            if len(shape) > 1:
                values = rand(*shape) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
            model.graph.initializer.append(numpy_helper.from_array(values, n.output[0]))
        else:
            kept.append(n)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    check(*_normalized(model), tolerance=3e-4, target=FULL)


def _normalized(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model at the compiler's opset, folded, and a random input."""
    from qcompiler.frontends.onnx_load import normalize

    result = normalize(model)
    for name, values in result.arrays.items():
        result.proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    rng, feeds = np.random.default_rng(0), {}
    for info in result.proto.graph.input:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        feeds[info.name] = (rng.integers(0, 2, shape) if dtype.kind == "i" else rng.random(shape)).astype(dtype)
    return result.proto, feeds
