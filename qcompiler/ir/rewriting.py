"""Greedy pattern rewriting that keeps locations, and verification that shows the place."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import ModuleOp, UnknownLoc
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriter,
    PatternRewriterListener,
    PatternRewriteWalker,
    RewritePattern,
)
from xdsl.traits import is_side_effect_free
from xdsl.utils.exceptions import VerifyException

from qcompiler.errors import IRError
from qcompiler.ir.q_base import QOp
from qcompiler.ir.text import print_operations
from qcompiler.ir.values import describe, main


def _carry_location(old: Operation, values: Sequence[SSAValue | None]) -> None:
    """xDSL's rewriter drops locations; the replacement of an op gets that of the op."""
    for value in values:
        if value is not None and isinstance(value.owner, Operation) and isinstance(value.owner.location, UnknownLoc):
            value.owner.location = old.location


def rewrite(module: ModuleOp, *patterns: RewritePattern, recursive: bool = True) -> bool:
    """Applies patterns to a fixed point (or once to each op), removes dead operations; True if anything changed."""
    listener = PatternRewriterListener(operation_replacement_handler=[_carry_location])
    applier = GreedyRewritePatternApplier(list(patterns))
    changed = PatternRewriteWalker(applier, listener=listener, apply_recursively=recursive).rewrite_module(module)
    return remove_dead(module) or changed


def remove_dead(module: ModuleOp) -> bool:
    """Erases pure operations of the function none of whose results is used."""
    changed = False
    for op in reversed(list(main(module).body.block.ops)):
        if op.results and not any(r.first_use for r in op.results) and is_side_effect_free(op):
            op.detach()
            op.erase()
            changed = True
    return changed


def replace(rewriter: PatternRewriter, old: Operation, *new: Operation) -> None:
    """Replaces `old` by the results of the last of `new`."""
    for op in new:
        if isinstance(op.location, UnknownLoc):
            op.location = old.location
    rewriter.replace(old, list(new), list(new[-1].results))


def verify_module(module: ModuleOp) -> None:
    """Verifies every op, and that every value is defined before it is used (xDSL does not check this).

    Raises:
        IRError: names the op and shows its neighbours.
    """
    for op in module.walk():
        try:
            op.verify(verify_nested_ops=False)
            if isinstance(op, QOp) and (unknown := [name for name in op.attributes if "." not in name]):
                raise VerifyException(f"unknown attribute '{unknown[0]}'")
        except VerifyException as fault:
            reason = " ".join(line.strip() for line in str(fault).splitlines()[:2])
            raise IRError(f"{describe(op)} does not verify: {reason}\n{_window(op)}") from None
    for function in module.ops:
        if not isinstance(function, FuncOp):
            continue
        for block in function.body.blocks:
            seen: set[SSAValue] = set(block.args)
            for op in block.ops:
                if not seen.issuperset(op.operands):
                    raise IRError(f"{describe(op)} uses a value before its definition\n{_window(op)}")
                seen.update(op.results)
    main(module)


def _window(op: Operation, around: int = 2) -> str:
    ops = [op]
    for _ in range(around):
        if ops[0].prev_op is not None:
            ops.insert(0, ops[0].prev_op)
        if ops[-1].next_op is not None:
            ops.append(ops[-1].next_op)
    return print_operations(ops, op)
