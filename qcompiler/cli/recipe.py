"""The commands `recipe show`, `recipe diff` and `recipe check`."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import qcompiler
from qcompiler.cli.output import print_json, print_table
from qcompiler.cli.progress import progress
from qcompiler.errors import BundleError
from qcompiler.recipe import Recipe, diff

_FILE = "recipe.toml"


def recipe_show_command(options: Namespace) -> None:
    recipe = _read(options.path)
    if options.json:
        rules = [{"match": r.match, **r.wishes, "reason": r.reason, "sqnr": r.sqnr} for r in recipe.layers]
        print_json({"model": recipe.model, "defaults": dict(recipe.defaults), "layers": rules})
        return
    count = len(recipe.layers)
    model = f" for {recipe.model}" if recipe.model else ""
    print(f"{options.path}: recipe{model}, {count} rule{'' if count == 1 else 's'}")
    for key, value in recipe.defaults.items():
        print(f"  {key:18} {_text(value)}")
    if recipe.layers:
        print()
        rows = [(r.match, _wishes(r.wishes), r.reason or "") for r in recipe.layers]
        print_table("Layers", ("match", "asks for", "reason"), rows)


def recipe_diff_command(options: Namespace) -> None:
    found = diff(_read(options.old), _read(options.new))
    if options.json:
        print_json([asdict(difference) for difference in found])
    elif found:
        rows = [(d.where, d.key, _text(d.old), _text(d.new)) for d in found]
        print_table(f"{options.old} and {options.new}", ("layer", "setting", "old", "new"), rows)
    else:
        print(f"{options.old} and {options.new} ask for the same")


def recipe_check_command(options: Namespace) -> None:
    """Ends with exit code 2 if a rule matches nothing, or contradicts the profile."""
    from qcompiler.api import front_passes
    from qcompiler.options import QuantizeOptions
    from qcompiler.passes.apply_recipe import ApplyRecipe, layer_names
    from qcompiler.pipeline import CompilerContext, PassManager
    from qcompiler.profiles import check_recipe, resolve_profile

    recipe = _read(options.path)
    settings = QuantizeOptions.of(recipe=recipe, profile=options.profile)
    if settings.profile is not None:
        check_recipe(recipe, resolve_profile(settings.profile))
    with progress(options.quiet) as shown:
        model = qcompiler.import_onnx(options.model, dict(options.shape))
        context = CompilerContext(recipe=recipe, progress=shown, source=str(options.model))
        PassManager((*front_passes(settings), ApplyRecipe())).run(model, context)
    names = [*((name,) for name in model.inputs), *layer_names(model.module).values()]
    rows = [(r.match, _wishes(r.wishes), sum(any(map(r.matches, n)) for n in names)) for r in recipe.layers]
    if options.json:
        print_json([{"match": match, "asks": asks, "layers": count} for match, asks, count in rows])
    else:
        print_table(f"{options.path} on {options.model}", ("match", "asks for", ">layers"), rows)


def _read(path: Path) -> Recipe:
    """A recipe, or that of a bundle."""
    if not path.is_dir():
        return Recipe.load(path)
    qcompiler.load_bundle(path)
    if not (path / _FILE).exists():
        raise BundleError(f"{path} holds no recipe; compile the model again")
    return Recipe.load(path / _FILE)


def _wishes(wishes: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_text(value)}" for key, value in wishes.items())


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return " to ".join(f"{v:g}" for v in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
