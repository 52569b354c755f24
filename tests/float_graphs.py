"""Graphs of float operators, and the comparison of their kernels with onnxruntime, for the tests of float islands."""

from __future__ import annotations

import numpy as np
import onnx
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import tirx
from tvm.sym import Analyzer
from tvm_ffi import StructuralKey, structural_map

from qcompiler.ir.opset import OPSET
from qcompiler.lowering.float_island import lower_float
from qcompiler.lowering.float_loops import loads
from qcompiler.lowering.program import Program

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
