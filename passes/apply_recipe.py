"""Pass `apply-recipe`: what a recipe asks of single layers is put on their ops, for the passes that decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, ModuleOp, StringAttr, UnitAttr, f64
from xdsl.ir import Attribute, Operation

from qcompiler.errors import PipelineError
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.values import body, input_names, location_names, main, value_names
from qcompiler.pipeline import CompilerContext, QuantPass, Stage
from qcompiler.recipe import LayerRule, Recipe

_ATTRIBUTE = "q.recipe"


@dataclass(frozen=True)
class ApplyRecipe(QuantPass):
    """Puts `q.recipe`, what a recipe asks for, on the ops that its rules match by name, and on the function for inputs.

    `file`: the recipe, a TOML file; without it, that of the context. `keep-float`: names of nodes that stay float
    besides. Later rules win. A rule that matches nothing is an error.
    """

    name: ClassVar[str] = "apply-recipe"
    requires: ClassVar = (Stage.FLOAT, Stage.CALIBRATED)
    file: str | None = None
    keep_float: tuple[str, ...] = ()

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        recipe = ctx.recipe if self.file is None else Recipe.load(self.file)
        if recipe is None and not self.keep_float:
            raise PipelineError(f"{ctx.source}: apply-recipe needs a recipe; give it with apply-recipe{{file=...}}")
        recipe = (recipe or Recipe()).extended(LayerRule(name, precision="float32") for name in self.keep_float)
        names, inputs = layer_names(module), input_names(module)
        recipe.check_names([*inputs, *(name for op in names for name in names[op])], ctx.source)
        for op in names:
            if wishes := recipe.wishes(names[op]):
                op.attributes[_ATTRIBUTE] = _dictionary(wishes)
        found = [recipe.wishes([name]) for name in inputs]
        if any(found):
            marks = [_dictionary(wishes) if wishes else UnitAttr() for wishes in found]
            main(module).attributes[_ATTRIBUTE] = ArrayAttr(marks)


def layer_names(module: ModuleOp) -> dict[Operation, tuple[str, ...]]:
    """What a rule may call each op: the nodes it was made from, and the values it makes, as reports name them.

    Where a node became several ops, its name stands for all of them, `name#1`, `name#2`... for one.
    """
    values = value_names(module)
    found = {}
    for op in body(module).ops:
        if op.results and not isinstance(op, ConstantOp):
            own = [values[r] for r in op.results]
            found[op] = tuple(dict.fromkeys([*location_names(op), *own, *(f"{n}#1" for n in own if "#" not in n)]))
    return found


def unique_names(module: ModuleOp) -> dict[Operation, str]:
    """A name for each op that stands for no other one."""
    names = layer_names(module)
    count = Counter(name for found in names.values() for name in found)
    return {
        op: next(n for n in (*reversed(location_names(op)), *found) if count[n] == 1) for op, found in names.items()
    }


def _dictionary(wishes: Mapping[str, Any]) -> DictionaryAttr:
    return DictionaryAttr(_attributes(wishes))


def _attributes(wishes: Mapping[str, Any]) -> dict[str, Attribute]:
    return {
        key: ArrayAttr([FloatAttr(float(v), f64) for v in value]) if key == "range" else StringAttr(value)
        for key, value in wishes.items()
    }
