"""Writes the tables of the pages from the code; the test of the docs fails while a page is not what this writes.

Run it as ``python docs/tables.py`` after changing an error, a status, a setting, a command line or a public name.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, get_args

import attrs
import click

import opdispatch
from opdispatch import errors
from opdispatch.action import Wait
from opdispatch.command import Refusal
from opdispatch.policy.conflict import spelled
from opdispatch.run import RunStatus, StatusReason
from opdispatch.target import TargetStatus
from opdispatch.task import TaskStatus
from opdispatch_adapters.cli.exits import ERROR_EXITS, Exit
from opdispatch_adapters.cli.main import program
from opdispatch_adapters.commands import CommandSettings
from opdispatch_adapters.dispatcher import Settings
from opdispatch_adapters.sql.postgres.settings import PostgresSettings

DOCS: Final = Path(__file__).parent
_BLOCK: Final = re.compile(r"(?P<begin><!-- generated: (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def sentence(doc: str | None) -> str:
    """The first sentence of a docstring, in Markdown."""
    text = " ".join((doc or "").split())
    first = re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]
    return first.replace("``", "`")


def field_docs(owner: type) -> Mapping[str, str]:
    """The docstring after each field or member of a class, by name, in Markdown; empty where there is none."""
    body = ast.parse(inspect.cleandoc(inspect.getsource(owner))).body[0]
    if not isinstance(body, ast.ClassDef):
        raise TypeError(f"{owner} is not a class")
    docs: dict[str, str] = {}
    name = ""
    for statement in body.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=found)) | ast.Assign(targets=[ast.Name(id=found)]):
                name = found
                docs[name] = ""
            case ast.Expr(value=ast.Constant(value=str(text))) if name:
                docs[name] = " ".join(text.split()).replace("``", "`")
                name = ""
            case _:
                name = ""
    return docs


def enum_table(kind: type[StrEnum], said: Mapping[str, str]) -> str:
    """A line per value; ``said`` adds what the docstrings leave out, and must name no other value."""
    docs = field_docs(kind)
    unknown = set(said) - {member.name for member in kind}
    if unknown:
        raise ValueError(f"{kind.__name__} has no {sorted(unknown)}")
    rows = [(f"`{m.value}`", " ".join(filter(None, (docs.get(m.name, ""), said.get(m.name, ""))))) for m in kind]
    missing = [value for value, text in rows if not text]
    if missing:
        raise ValueError(f"{kind.__name__}: nothing is said of {missing}")
    return table((kind.__name__, "Meaning"), rows)


RUN: Final = {
    "RUNNING": "No hold stands: it claims as slots come free.",
    "COMPLETED": "Every target is settled, and none failed or was terminated.",
    "COMPLETED_WITH_FAILURES": "Every target is settled; some failed or were terminated, some did not.",
    "CANCELLED": "An operator cancelled it; nothing more is claimed, and what was in flight is being ended.",
    "FAILED": "Every target failed or was terminated, or its plan cannot be carried out.",
}
REASON: Final = {
    "NONE": "Not paused.",
    "OPERATOR_PAUSED": "An operator paused it. Stored; a resume releases it.",
    "CONFLICT_RETRY_TIMEOUT": "A rack was still busy at the end of its conflict window. Stored; a resume releases it.",
    "SAFETY_GATE": "More attempts failed than a gate allows. Derived anew at each decision; "
    "a resume that accepts the failures lifts it.",
    "PHASE_GATE": "The current phase is settled and the next waits. Derived; an advance opens it.",
}
TARGET: Final = {
    "COMPLETED": "Its task completed, or an operator said so.",
    "FAILED": "Its task failed, was refused for good, or was lost; or an operator said so.",
}
TASK: Final = {
    "WAITING": "Accepted, and waits for its rack.",
    "PENDING": "Accepted, and not begun.",
    "RUNNING": "Begun, and not over.",
    "COMPLETED": "Over: it did what was asked.",
    "FAILED": "Over: it did not.",
    "TERMINATED": "Over: it was ended from outside.",
}
WAIT: Final = {
    "OPERATOR": "The operator's hold.",
    "CONFLICT_WINDOW": "The conflict hold.",
    "SAFETY_GATE": "A tripped gate.",
    "PHASE_GATE": "The advance to the next phase.",
    "QUOTA": "A free slot: `max_concurrent_targets` are in use.",
    "CAPACITY": "The task manager: it can begin no more at once.",
    "CONFLICT": "Busy racks.",
    "ANSWER": "Submissions without an answer.",
    "IN_FLIGHT": "Tasks that have not ended.",
    "DRAINING": "Tasks of a run that has ended.",
}
REFUSAL: Final = {
    "RUN_ENDED": "The run has ended. A cancel and a settle are never refused for it.",
    "STALE_REVISION": "The run has changed since `expected_revision`: look again, then decide.",
    "NOT_PAUSED": "Resume: nothing holds the run.",
    "GATE_TRIPPED": "Resume without accepting, or advance, or retry, while a gate is tripped.",
    "MORE_FAILURES": "Resume: more attempts have failed by now than would be accepted.",
    "PHASE_GATE": "Resume of a run that waits for an advance.",
    "NOT_AT_PHASE_GATE": "Advance of a run that waits for none.",
    "UNEXPECTED_PHASE": "Advance to another phase than the one that waits.",
    "CONFLICT_HOLD": "Advance while a conflict hold stands: resume first.",
    "NO_SUCH_TARGET": "Retry or settle: the run has no such target.",
    "NOT_SETTLED": "Retry of a target that still has work.",
    "ALREADY_SETTLED": "Settle of a target that is settled: retry it to do it again.",
    "OPEN_STRAY": "Retry of a target that has an older task not yet over.",
    "ANSWER_OPEN": "Settle of a claimed target whose key was not looked up yet.",
    "NOT_STARTED": "Settle of a target that never started, as anything but skipped.",
}


def error_table() -> str:
    """Every error class of the core."""
    kinds = [k for _, k in inspect.getmembers(errors, inspect.isclass) if issubclass(k, errors.OpdispatchError)]
    kinds.sort(key=lambda kind: inspect.getsourcelines(kind)[1])
    return table(
        ("Error", "`reason`", "Try again as it is", "Exit code", "Meaning"),
        [
            (
                f"`{kind.__name__}`",
                f"`{kind.reason}`",
                "yes" if kind.retryable else "no",
                str(int(ERROR_EXITS[kind])),
                sentence(kind.__doc__),
            )
            for kind in kinds
        ],
    )


def exit_table() -> str:
    """Every exit code of the program."""
    docs = field_docs(Exit)
    return table(("Exit code", "Meaning"), [(str(int(code)), docs[code.name]) for code in Exit])


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _options(params: Iterable[click.Parameter], context: click.Context) -> str:
    options = (param for param in params if isinstance(param, click.Option))
    records = [record for option in options if (record := option.get_help_record(context)) is not None]
    return table(("Option", "Meaning"), [(f"`{_plain(names)}`", _plain(text)) for names, text in records])


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def cli_pages() -> str:
    """Every command of the program, with its own options; the global ones once."""
    top = click.Context(program, info_name="opdispatch", **program.context_settings)
    shared = {param.name for param in program.params}
    parts = ["### Options of every command\n", _options(program.get_params(top), top)]
    for path, command in _commands(program, "opdispatch"):
        context = click.Context(command, info_name=path)
        own = [param for param in command.params if param.name not in shared]
        usage = " ".join(["[OPTIONS]", *command.collect_usage_pieces(context)[1:]])
        parts += [
            f"### {path.removeprefix('opdispatch ')}\n",
            f"```console\n$ {path} {usage}\n```\n",
            "\n\n".join(_plain(paragraph) for paragraph in re.split(r"\n\s*\n", command.help or "")) + "\n",
        ]
        if any(isinstance(param, click.Option) for param in own):
            parts.append(_options(own, context))
    return "\n".join(parts)


def _default(field: attrs.Attribute[Any]) -> str:
    value = field.default
    if value is attrs.NOTHING:
        return "must be given"
    if field.name == "python":
        return "this interpreter"
    if isinstance(value, attrs.Factory):  # type: ignore[arg-type]  # a class at run time, a function to the checker
        return "empty"
    if isinstance(value, timedelta):
        return spelled(value)
    if isinstance(value, bool):
        return "`on`" if value else "`off`"
    return "none" if value is None else f"`{value}`"


def settings_table(owner: type) -> str:
    """Every field of an attrs class, with its default."""
    docs = field_docs(owner)
    overview = " ".join((owner.__doc__ or "").split())
    return f"{overview.replace('``', '`')}\n\n" + table(
        ("Setting", "Default", "Meaning"),
        [(f"`{field.name}`", _default(field), docs[field.name] or "See above.") for field in attrs.fields(owner)],
    )


def _home(name: str) -> str:
    found = getattr(opdispatch, name)
    module = getattr(found, "__module__", "")
    if module.startswith("opdispatch.") and hasattr(sys.modules[module], name):
        return str(module)
    homes = [m for m in sys.modules if m.startswith("opdispatch.") and vars(sys.modules[m]).get(name) is found]
    defined = [m for m in homes if re.search(rf"^{name} =", inspect.getsource(sys.modules[m]), re.MULTILINE)]
    return defined[0]


def _what(name: str) -> str:
    found = getattr(opdispatch, name)
    members = get_args(found)
    if members:
        return "One of " + ", ".join(f"`{member.__name__}`" for member in members if hasattr(member, "__name__")) + "."
    if hasattr(found, "__supertype__"):
        return f"An id, `{found.__supertype__.__name__}`."
    return sentence(found.__doc__)


def surface_table() -> str:
    """Every public name, by module."""
    rows = sorted((_home(name), name) for name in opdispatch.__all__)
    return table(
        ("Name", "Module", "What it is"),
        [(f"{{py:obj}}`{name} <{home}.{name}>`", f"`{home}`", _what(name)) for home, name in rows],
    )


def _is_documented(name: str, home: str) -> bool:
    body = ast.parse(inspect.getsource(sys.modules[home])).body
    for statement, following in pairwise(body):
        match statement, following:
            case ast.Assign(targets=[ast.Name(id=found)]), ast.Expr(value=ast.Constant(value=str())) if found == name:
                return True
            case _:
                pass
    return False


def alias_entries() -> str:
    """An entry for each public union and id that the code explains by its members alone."""
    names = sorted((_home(name), name) for name in opdispatch.__all__ if _is_alias(getattr(opdispatch, name)))
    entries = [
        f".. py:data:: {name}\n   :module: {home}\n\n   {_what(name).replace('`', '``')}\n"
        for home, name in names
        if not _is_documented(name, home)
    ]
    return "```{eval-rst}\n" + "\n".join(entries) + "```\n"


def _is_alias(found: object) -> bool:
    return bool(get_args(found)) or hasattr(found, "__supertype__")


MAKERS: Final[Mapping[str, Callable[[], str]]] = {
    "surface": surface_table,
    "aliases": alias_entries,
    "cli": cli_pages,
    "errors": error_table,
    "exit-codes": exit_table,
    "refusals": lambda: enum_table(Refusal, REFUSAL),
    "run-statuses": lambda: enum_table(RunStatus, RUN),
    "status-reasons": lambda: enum_table(StatusReason, REASON),
    "target-statuses": lambda: enum_table(TargetStatus, TARGET),
    "task-statuses": lambda: enum_table(TaskStatus, TASK),
    "waits": lambda: enum_table(Wait, WAIT),
    "dispatcher-settings": lambda: settings_table(Settings),
    "command-settings": lambda: settings_table(CommandSettings),
    "postgres-settings": lambda: settings_table(PostgresSettings),
}


def renewed(page: str) -> str:
    """The page with every generated block as the code has it now."""
    return _BLOCK.sub(lambda block: f"{block['begin']}\n{MAKERS[block['name']]()}\n{block['end']}", page)


def pages() -> Iterator[tuple[Path, str]]:
    """Every page that has a generated block, with its text now."""
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if "_build" not in path.parts and _BLOCK.search(text):
            yield path, text


def main() -> None:
    """Write every page anew."""
    for path, text in pages():
        path.write_text(renewed(text), encoding="utf-8")


if __name__ == "__main__":
    main()
