"""Text of a module: printing and parsing, with long types as aliases and without `loc(unknown)`.

print -> parse -> print is the identity, and MLIR's own `mlir-opt --allow-unregistered-dialect` reads the text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO

from xdsl.context import Context
from xdsl.dialect_interfaces.op_asm import OpAsmDialectInterface
from xdsl.dialects.builtin import ArrayAttr, Builtin, ContainerType, ModuleOp, UnknownLoc
from xdsl.dialects.func import Func
from xdsl.ir import Attribute, Operation
from xdsl.parser import Parser, ParserState
from xdsl.printer import Printer
from xdsl.utils.exceptions import ParseError, VerifyException
from xdsl.utils.lexer import Input
from xdsl.utils.mlir_lexer import MLIRLexer, MLIRTokenKind

from qcompiler.errors import IRError
from qcompiler.ir.onnx_dialect import onnx_dialect
from qcompiler.ir.q_dialect import Q
from qcompiler.ir.quant_types import Quant, UniformType

_ALIAS_FROM = 60
"""Types whose text is longer than this are printed as aliases at the top of the module."""


def load_dialects(context: Context) -> None:
    """Makes the project's dialects known; the `onnx` classes are generated when the first such op is met."""
    for dialect in (Builtin, Func, Quant, Q):
        context.load_dialect(dialect)
    context.register_dialect("onnx", onnx_dialect)


@dataclass(eq=False, repr=False)
class _Printer(Printer):
    print_debuginfo: bool = True
    print_properties_as_attributes: bool = True
    aliases: dict[Attribute, str] = field(default_factory=dict)
    only: Collection[Operation] = ()
    selected: list[str] = field(default_factory=list)
    """The text of the operations of `only`, filled while the module is printed."""

    def print_module(self, module: ModuleOp) -> None:
        aliases = _long_types(module)
        for element, name in aliases.items():
            self.print_string(f"{name} = ")
            self.print_attribute(element)
            self.print_string("\n")
        self.aliases = aliases
        self.print_op(module)
        self.print_string("\n")

    def print_attribute(self, attribute: Attribute) -> None:
        if isinstance(attribute, UniformType) and (name := self.aliases.get(attribute)) is not None:
            self.print_string(name)
        else:
            super().print_attribute(attribute)

    def print_attr_dict(self, attr_dict: Mapping[str, Attribute]) -> None:
        super().print_attr_dict({name: attr_dict[name] for name in sorted(attr_dict)})

    def print_op(self, op: Operation) -> None:
        # the operations of a region are printed before their parent's location, so the flag is put back
        outer, self.print_debuginfo = self.print_debuginfo, not isinstance(op.location, UnknownLoc)
        if op in self.only:
            whole, self.stream = self.stream, StringIO()
            super().print_op(op)
            self.selected.append(self.stream.getvalue())
            self.stream = whole
        else:
            super().print_op(op)
        self.print_debuginfo = outer


def _long_types(module: ModuleOp) -> dict[Attribute, str]:
    aliases: dict[Attribute, str] = {}
    for op in module.walk():
        values = (*op.results, *(a for r in op.regions for b in r.blocks for a in b.args))
        for attribute in (*(v.type for v in values), *op.attributes.values()):
            for element in _quantized_types(attribute):
                if element not in aliases and len(str(element)) > _ALIAS_FROM:
                    aliases[element] = f"!q{len(aliases)}"
    return aliases


def _quantized_types(attribute: Attribute) -> Iterator[UniformType]:
    if isinstance(attribute, UniformType):
        yield attribute
    elif isinstance(attribute, ContainerType):
        yield from _quantized_types(attribute.get_element_type())
    elif isinstance(attribute, ArrayAttr):
        for item in attribute.data:
            yield from _quantized_types(item)


def print_module(module: ModuleOp) -> str:
    """MLIR text of a module; constants are named, not written out."""
    stream = StringIO()
    _Printer(stream).print_module(module)
    return stream.getvalue()


def print_selected(module: ModuleOp, only: Collection[Operation]) -> str:
    """Some operations as the text of the whole module has them, one a line, after the aliases that they use."""
    printer = _Printer(StringIO(), only=only)
    printer.print_module(module)
    text = "".join(f"{line}\n" for line in printer.selected)
    used = [(a, name) for a, name in printer.aliases.items() if re.search(rf"{name}\b", text)]
    return "".join(f"{name} = {attribute}\n" for attribute, name in used) + text


def print_operations(ops: list[Operation], mark: Operation | None = None, width: int = 300) -> str:
    """Operations one a line, `mark` with an arrow; for messages."""
    printer = _Printer()  # one printer for all, so that values keep their names
    lines: list[str] = []
    for op in ops:
        printer.stream = StringIO()
        printer.print_op(op)
        lines.append(("> " if op is mark else "  ") + printer.stream.getvalue()[:width])
    return "\n".join(lines)


class _Lexer(MLIRLexer):
    """xDSL's, but it finds out in linear time, not exponential, that a string is not closed."""

    _unescaped_characters_regex = re.compile(r'"(?:[^"\\\n\v\f]++|\\(?:["nt\\]|[0-9A-Fa-f]{2}))*+"')


_QUANTIZED: dict[str, Attribute] = {}
"""Quantized types by their text, which no alias can be in; the dumps of a model have them in common."""
_MOST_QUANTIZED = 4096


class _CachingParser(Parser):
    """Reads each distinct tensor type once: a dump repeats the same few thousands of times."""

    _types: dict[str, Attribute]

    def __init__(self, context: Context, text: str, source: str) -> None:
        super().__init__(context, "", source)
        self._parser_state = ParserState(_Lexer(Input(text, source)))

    def parse_optional_type(self):  # type: ignore[no-untyped-def]
        return self._cached(super().parse_optional_type)

    def parse_optional_attribute(self):  # type: ignore[no-untyped-def]
        return self._cached(super().parse_optional_attribute)

    def _cached(self, parse):  # type: ignore[no-untyped-def]
        token = self._current_token
        text, end = self.lexer.input.content, token.span.end
        is_type = token.kind is MLIRTokenKind.EXCLAMATION_IDENT or (
            token.kind is MLIRTokenKind.BARE_IDENT and token.text == "tensor"
        )
        if not is_type or text[end : end + 1] != "<":
            return parse()
        stop = self._raw_scan_balanced(end + 1) + 1
        is_shared = token.text == "!quant.uniform"
        cache = _QUANTIZED if is_shared else self.__dict__.setdefault("_types", {})
        key = text[token.span.start : stop]
        if (found := cache.get(key)) is not None:
            self._resume_from(stop)
            return found
        result = parse()
        if result is not None and self._current_token.span.start >= stop:
            if is_shared and len(cache) >= _MOST_QUANTIZED:
                cache.clear()
            cache[key] = result
        return result


def parse_module(text: str, source: str = "<text>") -> ModuleOp:
    """A module from its text, verified.

    Raises:
        IRError: with file, line and column of a syntax error, or with the op that does not verify.
    """
    # xDSL keeps the names of resources in the process-wide Builtin object and would rename those met before
    Builtin.get_interface(OpAsmDialectInterface)._blob_storage.clear()  # type: ignore[union-attr]
    context = Context()
    load_dialects(context)
    try:
        module = _CachingParser(context, text, source).parse_module()
    except ParseError as error:
        raise IRError(_parse_message(error, source)) from None
    except VerifyException as error:
        raise IRError(f"{source}: {str(error).splitlines()[0]}") from None
    return module


def _parse_message(error: ParseError, source: str) -> str:
    content = error.span.input.content
    message, start = error.msg.strip(), error.span.start
    undefined = re.fullmatch(r"values used but not defined: \[(%[^,\]]+).*\]", message)
    if undefined and (use := re.search(rf"{re.escape(undefined[1])}(?![\w$.-])", content)):
        start = use.start()  # the parser finds this out at the end of the function
    before = content[:start]
    line, column = before.count("\n") + 1, start - (before.rfind("\n") + 1) + 1
    shown = content.split("\n")[line - 1][:160]
    if before.strip() == content.strip():
        message = f"unexpected end of the text ({message})"
    return f"{source}:{line}:{column}: {message}\n    {shown}"
