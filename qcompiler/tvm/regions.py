"""Regions: private Relax functions that carry one of our modules.

A region's body stays what it was, the float reference. Its attributes hold the module as it is after the passes so far:

* `qcompiler.module`: the text of the IR, one string a line;
* `qcompiler.constants`: the arrays that the text names;
* `qcompiler.notes`: sentences for the user.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, GlobalVar
from tvm.relax import Function, SeqExpr, Tuple

from qcompiler.calibration.data import open_calibration
from qcompiler.errors import ModelError
from qcompiler.frontends.relax_emit import dtype_of, shape_of
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.text import parse_module
from qcompiler.model import Model

MODULE = "qcompiler.module"
CONSTANTS = "qcompiler.constants"
NOTES = "qcompiler.notes"
ATTRIBUTES = (MODULE, CONSTANTS, NOTES)


def regions(module: tvm.IRModule) -> dict[str, GlobalVar]:
    """The regions of a module by name, in the order of their names."""
    found = {
        variable.name_hint: variable
        for variable, function in module.functions_items()
        if isinstance(function, Function) and function.attrs is not None and MODULE in function.attrs
    }
    return dict(sorted(found.items()))


def region_model(module: tvm.IRModule, name: str) -> Model:
    """The model that a region carries; changing it does not change the region.

    Raises:
        ModelError: the module has no such region.
    """
    variable = regions(module).get(name)
    if variable is None:
        raise ModelError(f"the module has no region '{name}'; it has {', '.join(regions(module)) or 'none'}")
    attributes = module[variable].attrs
    store = ConstantStore({str(key): value.numpy() for key, value in attributes[CONSTANTS].items()})
    text = "\n".join(map(str, attributes[MODULE])) + "\n"
    return Model(parse_module(text, name), store, name, [str(note) for note in attributes[NOTES]])


def with_model(function: Function, model: Model) -> Function:
    """The function carrying `model`."""
    constants = {name: tvm.runtime.tensor(np.ascontiguousarray(a).reshape(a.shape)) for name, a in model.store.items()}
    for key, value in ((MODULE, model.text().splitlines()), (CONSTANTS, constants), (NOTES, model.notes)):
        function = function.with_attr(key, value)
    return function


def region_feeds(module: tvm.IRModule, name: str, calibration: object, limit: int | None) -> object:
    """Calibration data of a region, from data of the function that calls it.

    Where the region reads other values than parameters of that function, they are computed for each sample.

    Raises:
        ModelError: no function calls the region.
        CalibrationError: as `open_calibration` does.
    """
    region = regions(module)[name]
    caller, call = _call_of(module, region)
    if all(any(argument.same_as(p) for p in caller.params) for argument in call.args):
        return calibration
    inputs = {p.name: (tuple(shape_of(p)), dtype_of(p)) for p in caller.params}
    names = [parameter.name for parameter in module[region].params]
    samples = open_calibration(calibration, inputs, limit)
    return _Computed(_arguments_of(module, caller, call), names, samples, list(inputs))


def _call_of(module: tvm.IRModule, region: GlobalVar) -> tuple[Function, Call]:
    for function in module.functions.values():
        if isinstance(function, Function):
            for block in function.body.blocks:
                for binding in block.bindings:
                    if isinstance(binding.value, Call) and region.same_as(binding.value.op):
                        return function, binding.value
    raise ModelError(f"no function of the module calls the region '{region.name_hint}'")


def _arguments_of(module: tvm.IRModule, caller: Function, call: Call) -> tvm.IRModule:
    """A module whose function `main` gives what `caller` hands to `call`."""
    functions = {v: f for v, f in module.functions_items() if not isinstance(f, Function) or not f.same_as(caller)}
    probe = tvm.IRModule(functions)
    plain = Function(caller.params, caller.body, caller.ret_ty, caller.is_pure)
    probe["main"] = relax.utils.copy_with_new_vars(plain.with_attr("global_symbol", "main"))
    copy = relax.transform.ToNonDataflow()(probe)["main"]
    (found,) = (
        binding.value
        for block in copy.body.blocks
        for binding in block.bindings
        if isinstance(binding.value, Call) and call.op.same_as(binding.value.op)
    )
    result = Tuple(list(found.args))
    body = SeqExpr(list(copy.body.blocks), result)
    probe["main"] = Function(copy.params, body, result.ty, copy.is_pure).with_attr("global_symbol", "main")
    return relax.transform.DeadCodeElimination(["main"])(probe)


class _Computed(Iterable):
    """Arguments of a call for each sample of the calling function, computed by TVM on this machine."""

    def __init__(
        self, module: tvm.IRModule, names: list[str], samples: Iterable[Mapping[str, np.ndarray]], inputs: list[str]
    ) -> None:
        self._names, self._samples, self._inputs = names, samples, inputs
        built = relax.build(relax.transform.DecomposeOpsForInference()(module), "llvm")
        self._machine = relax.VirtualMachine(built, tvm.cpu())

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for sample in self._samples:
            results = self._machine["main"](*(tvm.runtime.tensor(sample[name]) for name in self._inputs))
            yield {name: result.numpy() for name, result in zip(self._names, results, strict=True)}
