"""What a recipe asks of single operations: `q.recipe` as `apply-recipe` leaves it, read and checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, StringAttr
from xdsl.ir import Attribute, Operation, SSAValue

from qcompiler.calibration.ranges import parse_method
from qcompiler.errors import PipelineError
from qcompiler.ir.values import describe

_ATTRIBUTE = "q.recipe"
_KNOWN = {
    "precision": ("int8", "int16", "float16", "float32"),
    "scheme": ("auto", "symmetric", "affine"),
}


@dataclass(frozen=True)
class Wish:
    """One recipe entry; what is empty is left to the compiler."""

    precision: str = ""
    scheme: str = ""
    method: str = ""
    range: tuple[float, float] | None = None
    weights: str = ""
    """per-tensor, per-channel, or per-group:N, which pass group-weights obeys."""

    @property
    def keeps_float(self) -> bool:
        return self.precision.startswith("float")


def wish_of(op: Operation) -> Wish:
    """What the recipe asks of an op.

    Raises:
        PipelineError: an unknown key or value; the message names the op.
    """
    return _read(op.attributes.get(_ATTRIBUTE), describe(op))


def wish_of_argument(function: Operation, index: int, name: str) -> Wish:
    """What the recipe asks of an argument of the function.

    Raises:
        PipelineError: as `wish_of`.
    """
    recipes = function.attributes.get(_ATTRIBUTE)
    return _read(recipes.data[index] if isinstance(recipes, ArrayAttr) else None, f"input '{name}'")


def common_wish(wishes: Iterable[Wish], what: str) -> Wish:
    """One wish for tensors that share a type.

    Raises:
        PipelineError: they contradict each other; `what` names the tensors.
    """
    merged = Wish()
    for wish in wishes:
        for key in ("precision", "scheme", "method", "range"):
            old, new = getattr(merged, key), getattr(wish, key)
            if old and new and old != new:
                raise PipelineError(
                    f"{what} share one type, but the recipe asks for {key} {old} and {new}; ask for the same or for one"
                )
            merged = replace(merged, **{key: old or new})
    return merged


def wished_storage(wish: Wish, obstacles: Iterable[tuple[SSAValue, str | None]], what: str) -> bool:
    """Whether 16 bits are asked for.

    Raises:
        PipelineError: they are, but one of the `obstacles` (value, reason or None) is in the way.
    """
    if wish.precision != "int16":
        return False
    reason = next((r for _, r in obstacles if r is not None), None)
    if reason is not None:
        raise PipelineError(f"{what}: the recipe asks for int16, but {reason}; ask for int8 here, or for float32 there")
    return True


def _read(recipe: Attribute | None, what: str) -> Wish:
    if not isinstance(recipe, DictionaryAttr):
        return Wish()
    found: dict[str, object] = {}
    for key, value in recipe.data.items():
        if key == "range" and isinstance(value, ArrayAttr) and len(value.data) == 2:
            found[key] = _limits(value, what)
        elif key in {f.name for f in fields(Wish)} - {"range"} and isinstance(value, StringAttr):
            found[key] = _checked(key, value.data, what)
        else:
            raise PipelineError(f"{what}: the recipe's '{key} = {value}' is not understood")
    return Wish(**found)  # type: ignore[arg-type]


def _limits(pair: ArrayAttr[Attribute], what: str) -> tuple[float, float]:
    lo, hi = (float(v.value.data) if isinstance(v, FloatAttr) else float("nan") for v in pair.data)
    if not lo < hi or abs(lo) == float("inf") or abs(hi) == float("inf"):
        raise PipelineError(f"{what}: expected range = [low, high] with low < high, got [{lo:g}, {hi:g}]")
    return lo, hi


def _checked(key: str, text: str, what: str) -> str:
    if key in _KNOWN and text not in _KNOWN[key]:
        raise PipelineError(f"{what}: expected {key} {', '.join(_KNOWN[key])}; the recipe says '{text}'")
    if key == "weights" and text not in ("per-tensor", "per-channel") and not text.startswith("per-group:"):
        raise PipelineError(
            f"{what}: expected weights per-tensor, per-channel or per-group:N; the recipe says '{text}'"
        )
    if key == "method":
        try:
            parse_method(text)
        except ValueError as error:
            raise PipelineError(f"{what}: {error}") from None
    return text
