"""Partition: what can be imported moves into regions; all else stays as it is, in place."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import tvm
from tvm import relax
from tvm.ir import GlobalVar
from tvm.ir.transform import Pass, PassContext
from tvm.relax import Binding, DataflowBlock, DataflowVar, Function, SeqExpr, TensorType, Tuple, Var, VarBinding

from qcompiler.errors import ModelError, QCompilerError
from qcompiler.frontends.relax import import_function, translate
from qcompiler.frontends.relax_emit import Emitter, NotUnderstood, require
from qcompiler.tvm.regions import regions, with_model


def Partition(function: str = "main") -> Pass:
    """A pass that moves the calls of a function that our compiler understands into regions (`regions`).

    A region is a private function with the calls as they were, called in place; it carries the imported model. Calls
    that are not understood stay. Partitioning a second time changes nothing.

    Raises:
        ModelError: the module has no such Relax function.
    """

    def partition(module: tvm.IRModule, _: PassContext) -> tvm.IRModule:
        names = [variable.name_hint for variable in module.get_global_vars()]
        if function not in names or not isinstance(module[function], Function):
            raise ModelError(f"the module has no Relax function '{function}'; it has {', '.join(sorted(names))}")
        return module if regions(module) else _Partition(module, function).run()

    return tvm.transform.module_pass(partition, opt_level=0, name="qcompiler.partition")


class _Partition:
    def __init__(self, module: tvm.IRModule, function: str) -> None:
        self.module = module
        self.builder = relax.BlockBuilder(module)
        self.name = function
        self.function = module[function]
        self.emitter = Emitter()
        for parameter in self.function.params:
            self.emitter.values[parameter] = parameter.name

    def run(self) -> tvm.IRModule:
        blocks = list(self.function.body.blocks)
        result = self.function.body.body
        used = [set(relax.analysis.free_vars(result))]
        for block in reversed(blocks[1:]):
            used.insert(0, used[0].union(*(relax.analysis.free_vars(b.value) for b in block.bindings)))
        blocks = [self._block(block, later) for block, later in zip(blocks, used, strict=True)]
        old = self.function
        module = self.builder.get()
        module[self.name] = Function(old.params, SeqExpr(blocks, result), old.ret_ty, old.is_pure, old.attrs)
        return relax.transform.Normalize()(module)

    def _block(self, block: relax.BindingBlock, later: set[Var]) -> relax.BindingBlock:
        """The block with calls of regions. Bindings are taken in rounds: understood ones, then others, and so on.

        A binding's round is the first one in which all that it reads is there, so no region waits for itself.
        """
        read = {b.var: set(relax.analysis.free_vars(b.value)) for b in block.bindings}
        known = {b.var for b in block.bindings if self._understands(b)}
        rounds = _rounds(read, known, isinstance(block, DataflowBlock))
        bindings: list[Binding] = []
        for number in range(max(rounds.values(), default=-1) + 1):
            own = [b for b in block.bindings if rounds[b.var] == number]
            region = [b for b in own if b.var in known]
            inside = {b.var for b in region}
            outside = later.union(*(read[b.var] for b in block.bindings if b.var not in inside))
            outputs = [b.var for b in region if b.var in outside or _is_output(block, b.var)]
            bindings += self._called(region, outputs, type(block)) or region
            bindings += [b for b in own if b.var not in known]
        return type(block)(bindings)

    def _understands(self, binding: Binding) -> bool:
        try:
            require(not isinstance(binding.value, Tuple), "a tuple stays where it is read")
            translate(self.emitter, binding, self.module)
        except NotUnderstood:
            if isinstance(binding.var.ty, TensorType):
                self.emitter.values[binding.var] = binding.var.name
            return False
        finally:
            self.emitter.nodes.clear()
            self.emitter.constants.clear()
        return True

    def _called(self, region: Sequence[Binding], outputs: Sequence[Var], kind: type) -> list[Binding]:
        """A call in place of the bindings; empty where they are no region of their own."""
        if not any(isinstance(binding.value, tvm.ir.Call) for binding in region) or not outputs:
            return []
        inside = {binding.var for binding in region}
        read = [v for binding in region for v in relax.analysis.free_vars(binding.value) if v not in inside]
        parameters = list(dict.fromkeys(read))
        function = _function(parameters, region, outputs)
        try:
            function = with_model(function, import_function(function, self.module, self._fresh()))
        except QCompilerError:
            return []
        variable: GlobalVar = self.builder.add_func(function, self._fresh())
        call = relax.Call(variable, parameters, ret_ty=function.ret_ty)
        if len(outputs) == 1:
            return [VarBinding(outputs[0], call)]
        inner = DataflowVar if kind is DataflowBlock else Var
        results = inner(f"{variable.name_hint}_results", function.ret_ty)
        fields = [VarBinding(v, relax.TupleGetItem(results, i)) for i, v in enumerate(outputs)]
        return [VarBinding(results, call), *fields]

    def _fresh(self) -> str:
        taken = {variable.name_hint for variable in self.builder.get().get_global_vars()}
        number = 0
        while f"{self.name}_q{number}" in taken:
            number += 1
        return f"{self.name}_q{number}"


def _rounds(read: Mapping[Var, Collection[Var]], known: Collection[Var], is_pure: bool) -> dict[Var, int]:
    """The round of each variable of a block, by what its binding reads: that of its operands at the earliest.

    What understands none but constants moves to its first reader. Effects, if there are any, keep their order.
    """
    rounds: dict[Var, int] = {}
    constant: dict[Var, None] = {}
    latest = 0
    for variable, operands in read.items():
        inside = [v for v in operands if v in read]
        if variable in known and len(inside) == len(operands) and all(v in constant for v in inside):
            constant[variable] = None
        own = max((rounds[v] + (variable in known and v not in known) for v in inside), default=0)
        if variable not in known and not is_pure:
            own = latest = max(own, latest)
        rounds[variable] = own
    for variable in reversed(constant):
        readers = [rounds[v] for v, operands in read.items() if variable in operands]
        rounds[variable] = min(readers, default=0)
    return rounds


def _function(parameters: Sequence[Var], region: Sequence[Binding], outputs: Sequence[Var]) -> Function:
    """A private function of the bindings; its variables are new, parameters keep their names."""
    if len(outputs) == 1:
        result, name = outputs[0], outputs[0].name
    else:
        result, name = Tuple(list(outputs)), "results"
    returned = Var(name, result.ty)
    outer = [Var(v.name, v.ty) for v in parameters]
    aliases = [VarBinding(v, given) for v, given in zip(parameters, outer, strict=True)]
    block = DataflowBlock([*aliases, *region, VarBinding(returned, result)])
    function = Function(outer, SeqExpr([block], returned), returned.ty)
    return relax.utils.copy_with_new_vars(function)


def _is_output(block: relax.BindingBlock, variable: Var) -> bool:
    return isinstance(block, DataflowBlock) and not isinstance(variable, relax.DataflowVar)
