"""Mutants: every small change of a module's source that its tests should notice.

A mutant is one edit of the syntax tree.  What is changed: comparisons, conditions and their parts, arithmetic, numbers,
texts, truth values, members of enumerations, arguments, returned and assigned values, statements that are there for
what they do, cases, guards, bounds of slices, entries of tables, and what a dataclass promises of itself.

What is not changed: imports, annotations and aliases of types, docstrings, names for the type checker (``NewType``,
``TypeVar``), ``assert_never``, and decorators other than ``dataclass``.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any, Final, NamedTuple

_OPERATORS: Final[Mapping[type[ast.AST], tuple[type[ast.AST], ...]]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.FloorDiv,),
    ast.FloorDiv: (ast.Mult,),
    ast.Div: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitXor: (ast.BitOr,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
}
_OTHER_FUNCTION: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}
_FOR_THE_TYPE_CHECKER: Final = frozenset({"NewType", "TypeVar", "ParamSpec", "cast", "assert_never"})
_TURNED_BY_THEIR_OPERATOR: Final = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
_LONGEST: Final = 160
"""A change is shown with as much around it as fits into so many characters."""

Members = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a tree: a field of a node, or one item of it."""

    holder: ast.AST
    field: str
    index: int | None

    @property
    def node(self) -> Any:
        """What stands there."""
        found = getattr(self.holder, self.field)
        return found if self.index is None else found[self.index]

    @property
    def text(self) -> str:
        """What stands there, as it is printed; of an entry of a dictionary the key, too."""
        if isinstance(self.holder, ast.Dict) and self.index is not None:
            key, value = self.holder.keys[self.index], self.holder.values[self.index]
            return f"**{ast.unparse(value)}" if key is None else f"{ast.unparse(key)}: {ast.unparse(value)}"
        return ast.unparse(self.node)

    def put(self, node: ast.AST) -> None:
        """Let ``node`` stand there."""
        if self.index is None:
            setattr(self.holder, self.field, node)
        else:
            getattr(self.holder, self.field)[self.index] = node


class Scope(NamedTuple):
    """Where the finder is: in which function, in its body or not, and in which lines."""

    names: tuple[str, ...] = ()
    is_function: bool = False
    is_in_body: bool = False
    lines: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """``new`` takes the place of ``slot``; ``shown`` is the place that is printed, or both texts."""

    slot: Slot
    new: ast.AST
    scope: Scope
    shown: Slot | tuple[str, str]

    def texts(self) -> tuple[str, str]:
        """What is printed, before and after; the tree is as it was."""
        if not isinstance(self.shown, Slot):
            return self.shown
        old = self.slot.node
        before = self.shown.text
        self.slot.put(self.new)
        after = self.shown.text
        self.slot.put(old)
        return before, after


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One changed copy of a module.

    ``function`` is where the change is (empty: outside of all), ``before`` and ``after`` are what is changed, as
    the syntax tree prints it, and ``nth`` tells the same change in the same function apart, from 1.  ``is_in_body``
    is true when only the code of that function differs.
    """

    module: str
    number: int
    function: str
    before: str
    after: str
    nth: int
    is_in_body: bool
    lines: tuple[int, int]

    @property
    def place(self) -> tuple[str, str, str, str, int]:
        """Where it is, whatever its line."""
        return (self.module, self.function, self.before, self.after, self.nth)

    @property
    def difference(self) -> str:
        """The change, as a reader of differences knows it."""
        removed = [f"- {line}" for line in self.before.splitlines()]
        added = [f"+ {line}" for line in self.after.splitlines()]
        return "\n".join([f"{self.module}:{self.lines[0]} {self.function}", *removed, *added])


class Source:
    """The source of one module, and what can be changed in it; ``members`` are those of the enumerations."""

    def __init__(self, module: str, text: str, members: Members) -> None:
        self._module = module
        self._tree = ast.parse(text)
        finder = _Finder(_with_short_names(self._tree, members))
        finder.below(self._tree, Scope(), ())
        self._edits = tuple(finder.found)

    def mutants(self) -> tuple[Mutant, ...]:
        """All mutants, in the order of the source."""
        found: list[Mutant] = []
        seen: Counter[tuple[str, str, str]] = Counter()
        for number, edit in enumerate(self._edits):
            function = ".".join(edit.scope.names)
            before, after = edit.texts()
            seen[function, before, after] += 1
            found.append(
                Mutant(
                    module=self._module,
                    number=number,
                    function=function,
                    before=before,
                    after=after,
                    nth=seen[function, before, after],
                    is_in_body=edit.scope.is_in_body,
                    lines=edit.scope.lines,
                )
            )
        return tuple(found)

    def code(self, number: int, path: str) -> CodeType:
        """The whole module with the change of the mutant of this number, compiled as the file at ``path``."""
        edit = self._edits[number]
        old = edit.slot.node
        ast.fix_missing_locations(ast.copy_location(edit.new, old))
        edit.slot.put(edit.new)
        try:
            code: CodeType = compile(self._tree, path, "exec", dont_inherit=True)
        finally:
            edit.slot.put(old)
        return code


def members_of(sources: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The members of every enumeration in these sources, by its name."""
    return {
        node.name: tuple(
            target.id
            for statement in node.body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name) and target.id.isupper()
        )
        for source in sources
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Enum") for base in node.bases)
    }


def _with_short_names(tree: ast.Module, members: Members) -> Members:
    """The members also by the names that a module gives to its enumerations: ``_S, _C = RunStatus, RunChange``."""
    short = dict(members)
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            values = value.elts if isinstance(value, ast.Tuple) else [value]
            for name, known in zip(names, values, strict=False):
                if isinstance(name, ast.Name) and isinstance(known, ast.Name) and known.id in members:
                    short[name.id] = members[known.id]
    return short


class _Finder:
    """Goes through a tree once and notes every edit; the tree stays as it is."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self.found: list[Edit] = []

    # -- the way through the tree --

    def below(self, node: ast.AST, scope: Scope, above: tuple[Slot, ...]) -> None:
        """Everything below a node; ``above`` are the places of the expressions and the plain statement around."""
        for field, value in ast.iter_fields(node):
            if _is_left_alone(node, field):
                continue
            if isinstance(value, list):
                for index, item in enumerate(value):
                    if isinstance(item, ast.AST):
                        self._visit(Slot(node, field, index), scope, above)
            elif isinstance(value, ast.AST):
                self._visit(Slot(node, field, None), scope, above)

    def _visit(self, slot: Slot, scope: Scope, above: tuple[Slot, ...]) -> None:
        node = slot.node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._definition(node, scope)
            return
        if isinstance(node, ast.stmt | ast.match_case | ast.ExceptHandler):
            above = ()
            scope = scope._replace(lines=_lines(node))
        is_plain = isinstance(node, ast.stmt) and not hasattr(node, "body")
        if is_plain or isinstance(node, ast.expr):
            above = (*above, slot)
        if _is_skipped(node):
            return
        self._change(slot, node, scope, above)
        self.below(node, scope, above)

    def _definition(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, scope: Scope) -> None:
        names = (*scope.names, node.name)
        is_function = not isinstance(node, ast.ClassDef)
        outside = scope._replace(names=names, lines=(node.lineno, node.lineno))
        for index, decorator in enumerate(node.decorator_list):
            self._decorator(Slot(node, "decorator_list", index), decorator, outside)
        if not isinstance(node, ast.ClassDef):
            for field in ("defaults", "kw_defaults"):
                for index, default in enumerate(getattr(node.args, field)):
                    if default is not None:
                        self._visit(Slot(node.args, field, index), outside, ())
        inside = Scope(names, is_function or scope.is_function, is_function or scope.is_in_body)
        for index in range(len(node.body)):
            self._visit(Slot(node, "body", index), inside, ())

    def _decorator(self, slot: Slot, node: ast.expr, scope: Scope) -> None:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "dataclass":
            for keyword in node.keywords:
                flipped = ast.Constant(value=not ast.literal_eval(keyword.value))
                self._note(Slot(keyword, "value", None), flipped, scope, (slot,))

    def _note(
        self,
        slot: Slot,
        new: ast.AST,
        scope: Scope,
        above: tuple[Slot, ...],
        texts: tuple[str, str] | None = None,
    ) -> None:
        shown: Slot | tuple[str, str] = texts if texts is not None else _shown(slot, above)
        self.found.append(Edit(slot=slot, new=new, scope=scope, shown=shown))

    def _without(self, slot: Slot, scope: Scope, field: str, index: int, text: str) -> None:
        """The node at ``slot`` without one item of a field."""
        new = copy.copy(slot.node)
        items = list(getattr(new, field))
        del items[index]
        setattr(new, field, items)
        self._note(slot, new, scope, (), (text, ""))

    # -- what is changed --

    def _change(self, slot: Slot, node: ast.AST, scope: Scope, above: tuple[Slot, ...]) -> None:
        match node:
            case ast.Compare():
                for index, operator in enumerate(node.ops):
                    for other in _OPERATORS[type(operator)]:
                        self._note(Slot(node, "ops", index), other(), scope, above)
            case ast.BoolOp():
                self._note(Slot(node, "op", None), _OPERATORS[type(node.op)][0](), scope, above)
                for index in range(len(node.values)):
                    rest = [value for place, value in enumerate(node.values) if place != index]
                    left = rest[0] if len(rest) == 1 else ast.BoolOp(op=node.op, values=rest)
                    self._note(slot, left, scope, above)
            case ast.BinOp(op=ast.BitOr() | ast.BitAnd()):
                if scope.is_in_body:
                    self._note(slot, node.left, scope, above)
                    self._note(slot, node.right, scope, above)
            case ast.BinOp():
                self._note(Slot(node, "op", None), _OPERATORS[type(node.op)][0](), scope, above)
            case ast.AugAssign():
                if type(node.op) in _OPERATORS:
                    self._note(Slot(node, "op", None), _OPERATORS[type(node.op)][0](), scope, above)
                self._note(slot, ast.Pass(), scope, above)
            case ast.UnaryOp():
                self._note(slot, node.operand, scope, above)
            case ast.Constant():
                new = _other_value(node.value)
                if new is not None:
                    self._note(slot, ast.Constant(value=new), scope, above)
            case ast.JoinedStr():
                # One that begins with a text is changed there.
                if not isinstance(node.values[0], ast.Constant):
                    new_text = ast.JoinedStr(values=[ast.Constant(value="XX"), *node.values])
                    self._note(slot, new_text, scope, above)
            case ast.Attribute():
                self._member(slot, node, scope, above)
            case ast.Call():
                self._call(slot, node, scope, above)
            case ast.Slice():
                for field in ("lower", "upper"):
                    if getattr(node, field) is not None:
                        new_slice = copy.copy(node)
                        setattr(new_slice, field, None)
                        self._note(slot, new_slice, scope, above)
            case ast.Dict():
                if len(node.keys) > 1:
                    for index in range(len(node.keys)):
                        new_dict = ast.Dict(
                            keys=[k for place, k in enumerate(node.keys) if place != index],
                            values=[v for place, v in enumerate(node.values) if place != index],
                        )
                        self._note(slot, new_dict, scope, (), (Slot(node, "values", index).text, ""))
            case ast.Set() | ast.List(ctx=ast.Load()) | ast.Tuple(ctx=ast.Load()):
                if len(node.elts) > 1:
                    for index, element in enumerate(node.elts):
                        self._without(slot, scope, "elts", index, ast.unparse(element))
            case ast.comprehension():
                for index, condition in enumerate(node.ifs):
                    self._without(slot, scope, "ifs", index, f"if {ast.unparse(condition)}")
                    self._turned(Slot(node, "ifs", index), scope, above)
            case ast.IfExp():
                self._turned(Slot(node, "test", None), scope, above)
            case _:
                self._statement(slot, node, scope)

    def _member(self, slot: Slot, node: ast.Attribute, scope: Scope, above: tuple[Slot, ...]) -> None:
        """Another member of the same enumeration: the next, and after the last the first."""
        if not isinstance(node.value, ast.Name) or node.attr not in self._members.get(node.value.id, ()):
            return
        members = self._members[node.value.id]
        after = members[(members.index(node.attr) + 1) % len(members)]
        if after != node.attr:
            self._note(slot, ast.Attribute(value=node.value, attr=after, ctx=node.ctx), scope, above)

    def _call(self, slot: Slot, node: ast.Call, scope: Scope, above: tuple[Slot, ...]) -> None:
        called = ast.unparse(node.func)
        if called in _OTHER_FUNCTION:
            self._note(Slot(node, "func", None), ast.Name(id=_OTHER_FUNCTION[called], ctx=ast.Load()), scope, above)
        if called == "sorted":
            self._note(
                slot, ast.Call(func=ast.Name(id="list", ctx=ast.Load()), args=node.args, keywords=[]), scope, above
            )
        is_kind = called in ("isinstance", "issubclass")
        for index, argument in enumerate(node.args):
            if not isinstance(argument, ast.Constant | ast.Starred) and not (is_kind and index == 1):
                self._note(Slot(node, "args", index), ast.Constant(value=None), scope, above)
        for index, keyword in enumerate(node.keywords):
            if not isinstance(keyword.value, ast.Constant) and keyword.arg is not None:
                self._note(Slot(keyword, "value", None), ast.Constant(value=None), scope, above)
            new = copy.copy(node)
            new.keywords = [other for place, other in enumerate(node.keywords) if place != index]
            self._note(slot, new, scope, above)

    def _turned(self, slot: Slot, scope: Scope, above: tuple[Slot, ...]) -> None:
        """The condition the other way round, unless a change of its operator does that already."""
        node = slot.node
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], _TURNED_BY_THEIR_OPERATOR):
            return
        self._note(slot, ast.UnaryOp(op=ast.Not(), operand=node), scope, above)

    def _statement(self, slot: Slot, node: ast.AST, scope: Scope) -> None:
        own = (slot,)
        match node:
            case ast.Expr(value=ast.Call() | ast.Await()) | ast.Raise() | ast.Delete():
                self._note(slot, ast.Pass(), scope, own)
            case ast.Return(value=ast.expr() as value):
                if not (isinstance(value, ast.Constant) and value.value is None):
                    self._note(Slot(node, "value", None), ast.Constant(value=None), scope, own)
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                if scope.is_function and not isinstance(value, ast.Constant):
                    self._note(Slot(node, "value", None), ast.Constant(value=None), scope, own)
            case ast.Break():
                self._note(slot, ast.Continue(), scope, own)
            case ast.Continue():
                self._note(slot, ast.Break(), scope, own)
            case ast.If():
                self._turned(Slot(node, "test", None), scope, ())
            case ast.While():
                self._note(Slot(node, "test", None), ast.Constant(value=False), scope, ())
            case ast.For():
                self._note(Slot(node, "iter", None), ast.Tuple(elts=[], ctx=ast.Load()), scope, ())
            case ast.Match():
                for index, case in enumerate(node.cases):
                    if not _is_wild(case.pattern):
                        self._without(slot, scope._replace(lines=_lines(case)), "cases", index, _case_text(case))
            case ast.match_case(guard=ast.expr()):
                new = copy.copy(node)
                # Not left out: a case that takes everything must be the last.
                new.guard = ast.Constant(value=True)
                self._note(slot, new, scope, (), (_case_text(node), _case_text(new)))
                self._turned(Slot(node, "guard", None), scope, ())
            case ast.MatchOr():
                for index, pattern in enumerate(node.patterns):
                    rest = [other for place, other in enumerate(node.patterns) if place != index]
                    left = rest[0] if len(rest) == 1 else ast.MatchOr(patterns=rest)
                    self._note(slot, left, scope, (), (ast.unparse(pattern), ""))
            case ast.ExceptHandler():
                new_handler = copy.copy(node)
                new_handler.body = [ast.Raise()]
                kind = "" if node.type is None else ast.unparse(node.type)
                self._note(slot, new_handler, scope, (), (f"except {kind}: ...", f"except {kind}: raise"))
            case _:
                pass


def _is_left_alone(node: ast.AST, field: str) -> bool:
    """Annotations, what is assigned to, and the class of a pattern."""
    return field in ("annotation", "returns", "targets", "target", "ctx", "cls", "type", "simple", "op", "ops")


def _is_skipped(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Global() | ast.Nonlocal() | ast.Pass():
            return True
        case ast.Expr(value=ast.Constant()):
            return True  # A docstring, or the dots of a protocol.
        case ast.Expr(value=ast.Call(func=ast.Name(id=name))) | ast.Call(func=ast.Name(id=name)):
            return name in _FOR_THE_TYPE_CHECKER
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case ast.Assign(value=ast.Subscript(slice=ast.Name() | ast.Tuple())):
            return True  # An alias of a type: ``Key = tuple[int, str]``.
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case _:
            return False


def _other_value(value: object) -> bool | int | float | str | bytes | None:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"XX{value}"
        case bytes():
            return b"XX" + value
        case _:
            return None


def _lines(node: ast.AST) -> tuple[int, int]:
    """The lines of a plain statement, or of the head of one that has a body."""
    match node:
        case ast.match_case():
            last = node.pattern if node.guard is None else node.guard
            return (node.pattern.lineno, last.end_lineno or last.lineno)
        case ast.ExceptHandler():
            return (node.lineno, node.body[0].lineno)
        case ast.If() | ast.While():
            return (node.lineno, node.test.end_lineno or node.lineno)
        case ast.For():
            return (node.lineno, node.iter.end_lineno or node.lineno)
        case ast.With():
            return (node.lineno, node.body[0].lineno - 1)
        case ast.Match():
            return (node.lineno, node.subject.end_lineno or node.lineno)
        case ast.Try():
            return (node.lineno, node.lineno)
        case ast.stmt():
            return (node.lineno, node.end_lineno or node.lineno)
        case _:
            raise TypeError(f"{node} is no statement")


def _shown(slot: Slot, above: tuple[Slot, ...]) -> Slot:
    """The widest of the places above that is not too long to be printed."""
    return next((place for place in above if len(place.text) <= _LONGEST), above[-1] if above else slot)


def _is_wild(pattern: ast.pattern) -> bool:
    return isinstance(pattern, ast.MatchAs) and (pattern.pattern is None or _is_wild(pattern.pattern))


def _case_text(case: ast.match_case) -> str:
    guard = "" if case.guard is None else f" if {ast.unparse(case.guard)}"
    return f"case {ast.unparse(case.pattern)}{guard}:"
