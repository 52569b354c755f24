"""The compiler's passes, one a file. `PASSES` names them all; classes are loaded when a pipeline asks for them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from xdsl.passes import ModulePass


def _load(module: str, name: str) -> Callable[[], type[ModulePass]]:
    return lambda: cast("type[ModulePass]", getattr(import_module(module), name))


PASSES: dict[str, Callable[[], type[ModulePass]]] = {
    "import-qdq": _load("qcompiler.passes.import_qdq", "ImportQDQ"),
    "canonicalize": _load("qcompiler.passes.canonicalize", "Canonicalize"),
    "fold-batch-norm": _load("qcompiler.passes.fold_batch_norm", "FoldBatchNorm"),
    "decompose-recurrent": _load("qcompiler.passes.decompose_recurrent", "DecomposeRecurrent"),
    "equalize": _load("qcompiler.passes.equalize", "Equalize"),
    "calibrate": _load("qcompiler.passes.calibrate", "Calibrate"),
    "smooth": _load("qcompiler.passes.smooth", "Smooth"),
    "apply-recipe": _load("qcompiler.passes.apply_recipe", "ApplyRecipe"),
    "choose-scheme": _load("qcompiler.passes.choose_scheme", "ChooseScheme"),
    "assign-precision": _load("qcompiler.passes.assign_precision", "AssignPrecision"),
    "group-weights": _load("qcompiler.passes.group_weights", "GroupWeights"),
    "round-weights": _load("qcompiler.passes.round_weights", "RoundWeights"),
    "correct-bias": _load("qcompiler.passes.correct_bias", "CorrectBias"),
    "correct-bias-empirical": _load("qcompiler.passes.correct_bias_empirical", "CorrectBiasEmpirical"),
    "store-float16": _load("qcompiler.passes.store_float16", "StoreFloat16"),
    "compute-float16": _load("qcompiler.passes.compute_float16", "ComputeFloat16"),
    "insert-qdq": _load("qcompiler.passes.insert_qdq", "InsertQDQ"),
    "integerize": _load("qcompiler.passes.integerize", "Integerize"),
    "legalize": _load("qcompiler.passes.legalize", "Legalize"),
    "fold-zero-point": _load("qcompiler.passes.fold_zero_point", "FoldZeroPoint"),
    "plan-layout": _load("qcompiler.passes.plan_layout", "PlanLayout"),
    "cse": _load("qcompiler.passes.cleanup", "MergeEqual"),
    "dce": _load("qcompiler.passes.cleanup", "EraseDead"),
}
