"""The runner: which mutants do the tests notice?

A process that has loaded everything but the core and its tests forks one child for every mutant that is more than the
body of a function (a table, a default, a member), or whose code runs while modules are loaded: such a child loads the
changed core and then the tests.  All other mutants are tried in forks of one process that has loaded the tests and has
run each once under coverage: the fork gives the one function its changed code and runs the tests that execute a
changed line, cheapest first.  Every fork stops at the first test that fails.

What is found is worth nothing where the tests fail by themselves: both ways are tried without any change first.
A test that uses ten times the processor time that it uses otherwise, and a few seconds, has noticed the mutant, too.
"""

from __future__ import annotations

import gc
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, unique
from functools import cached_property
from itertools import groupby
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

import coverage
import pytest

from .mutants import Mutant, Source, members_of

_MEMORY_BYTES: Final = 4 << 30
_OPTIONS: Final = (
    "--quiet",
    "--exitfirst",
    "--capture=no",
    "--assert=plain",
    "--tb=no",
    "--noconftest",
    "--import-mode=importlib",
    "-Werror",
    f"-c{os.devnull}",
    "-pno:cacheprovider",
    "-pno:logging",
    "-pno:faulthandler",
)


@unique
class Verdict(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    TIMED_OUT = "timed out"
    """Killed, too: a test took far too long."""
    SURVIVED = "survived"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What is mutated, and what should notice.

    ``package`` lies in ``source``; packages in it that are ``left_out`` stay as they are.  ``tests`` are files below
    ``root``, cheapest first; those in ``early`` come even before them.  A test may use ``seconds`` of processor time
    more than usual.  ``prepare`` is called once in the process that everything is forked from, and must not load the
    package.
    """

    root: Path
    source: Path
    package: str
    tests: Sequence[str]
    early: Sequence[str] = ()
    left_out: Sequence[str] = ()
    seconds: float = 3.0
    prepare: Callable[[], None] = lambda: None

    def modules(self) -> dict[str, Path]:
        """The modules of the package by their name in it (``policy.gates``; the package itself is empty)."""
        top = self.source / self.package
        return {
            ".".join(path.relative_to(top).with_suffix("").parts).removesuffix("__init__").removesuffix("."): path
            for path in sorted(top.rglob("*.py"))
            if path.relative_to(top).parts[0] not in self.left_out
        }

    def full_name(self, module: str) -> str:
        """The name that it is imported by."""
        return f"{self.package}.{module}".removesuffix(".")

    @cached_property
    def sources(self) -> dict[str, Source]:
        """What can be changed, by module."""
        texts = {module: path.read_text(encoding="utf-8") for module, path in self.modules().items()}
        members = members_of(tuple(texts.values()))
        return {module: Source(module, text, members) for module, text in texts.items()}

    def code(self, mutant: Mutant) -> CodeType:
        """The compiled module with this change."""
        return self.sources[mutant.module].code(mutant.number, str(self.modules()[mutant.module]))


def verdicts(suite: Suite, chosen: Sequence[Mutant]) -> Iterator[tuple[Mutant, Verdict]]:
    """What becomes of each of these mutants, in no particular order."""
    # No plugin is needed, and looking for them takes longer than most tests.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    suite.prepare()
    by_key = {(mutant.module, mutant.number): mutant for mutant in chosen}
    left = dict(by_key)
    for module, number, verdict in _from_a_fork(lambda tell: _run_in_forks_of_loaded_tests(suite, chosen, tell)):
        yield left.pop((module, number)), Verdict(verdict)
    if not left:
        return
    if _in_a_fork(lambda: _run_all(suite, "")) is not Verdict.SURVIVED:
        raise RuntimeError("in a process that loads the core anew the tests fail without any change, too")
    for mutant in left.values():
        yield mutant, _in_a_fork(lambda mutant=mutant: _load_and_run(suite, mutant))  # type: ignore[misc]


# -- forks --


def _from_a_fork(work: Callable[[Callable[[Any], None]], None]) -> Iterator[Any]:
    """What ``work`` tells, line by line, from a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            with os.fdopen(writing, "w", encoding="utf-8") as lines:

                def tell(value: Any) -> None:
                    lines.write(json.dumps(value) + "\n")
                    lines.flush()

                work(tell)
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise RuntimeError(f"the process that runs the tests ended with {os.waitstatus_to_exitcode(status)}")


def _in_a_fork(survives: Callable[[], bool]) -> Verdict:
    """Whether a mutant survives, found out in a process of its own, which may be killed by it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            code = 0 if survives() else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Verdict.TIMED_OUT if os.WTERMSIG(status) == signal.SIGPROF else Verdict.KILLED
    return Verdict.SURVIVED if os.WEXITSTATUS(status) == 0 else Verdict.KILLED


def _limit(seconds: float) -> None:
    """This process ends when it has used so much processor time from now."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


# -- a fork that loads the changed core --


def _load_and_run(suite: Suite, mutant: Mutant) -> bool:
    """True when no test fails."""
    code = suite.code(mutant)
    sys.meta_path.insert(0, _Changed(suite.full_name(mutant.module), suite.modules()[mutant.module], code))
    return _run_all(suite, mutant.module)


def _run_all(suite: Suite, module: str) -> bool:
    """True when no test fails; those of this module come first."""
    _limit(40 * suite.seconds)
    for tests in _stages(suite, module):
        if tests and pytest.main([*_OPTIONS, f"--rootdir={suite.root}", *tests]) != pytest.ExitCode.OK:
            return False
    return True


def _stages(suite: Suite, module: str) -> Iterator[Sequence[str]]:
    """First the test file that is named like the module, where there is one, and what comes early; then the others of
    each directory: none is loaded before it is needed."""
    own = [test for test in suite.tests if test.endswith(f"/test_{module.rpartition('.')[2]}.py")]
    first = [*own, *suite.early]
    rest = [test for test in suite.tests if test not in first]
    yield first
    for _, directory in groupby(rest, key=lambda test: test.rpartition("/")[0]):
        yield list(directory)


class _Changed(importlib.machinery.SourceFileLoader):
    """Finds and loads one module with changed code."""

    def __init__(self, name: str, path: Path, code: CodeType) -> None:
        super().__init__(name, str(path))
        self._code = code

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def get_code(self, fullname: str) -> CodeType:
        return self._code


# -- forks that have loaded the tests --


def _run_in_forks_of_loaded_tests(suite: Suite, chosen: Sequence[Mutant], tell: Callable[[Any], None]) -> None:
    # The core of coverage that knows which test executes a line, whatever the version of Python.
    os.environ["COVERAGE_CORE"] = "ctrace"
    loaded = _LoadedTests(suite, chosen, tell)
    measured = coverage.Coverage(data_file=None, config_file=False, source_pkgs=[suite.package])
    loaded.measured = measured
    measured.start()
    arguments = [*_OPTIONS, f"--rootdir={suite.root}", *suite.tests]
    ended = pytest.main(arguments, plugins=[loaded])
    if ended != pytest.ExitCode.OK or loaded.trouble:
        raise RuntimeError(f"the tests cannot be loaded, or not be run: {ended}\n{loaded.trouble}")


@dataclass(slots=True, kw_only=True)
class _Outcome:
    """Listens to what becomes of a test."""

    has_failed: bool = False

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.has_failed = self.has_failed or report.failed


@dataclass(slots=True)
class _LoadedTests:
    """The plugin that runs each test once under coverage, and then the forks."""

    suite: Suite
    chosen: Sequence[Mutant]
    tell: Callable[[Any], None]
    measured: coverage.Coverage = field(init=False)
    trouble: str = ""
    _seconds: dict[str, float] = field(default_factory=dict)
    _items: dict[str, pytest.Item] = field(default_factory=dict)
    _kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    _outcome: _Outcome = field(default_factory=_Outcome)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        try:
            self._try_all(session)
        except Exception:
            # The program that is left would only print it where nobody looks.
            self.trouble = traceback.format_exc()
        return True

    def _try_all(self, session: pytest.Session) -> None:
        session.config.pluginmanager.register(self._outcome)
        for item in session.items:
            self._items[item.nodeid] = item
            self.measured.switch_context(item.nodeid)
            began = time.process_time()
            self._run(item)
            self._seconds[item.nodeid] = time.process_time() - began
            if self._outcome.has_failed:
                raise RuntimeError(f"{item.nodeid} fails without any change, too")
        self.measured.stop()
        executed = self._executed()
        gc.collect()
        gc.freeze()
        if _in_a_fork(lambda: self._survives(sorted(self._items), lambda _: None)) is not Verdict.SURVIVED:
            raise RuntimeError("in a fork the tests fail without any change, too")
        for mutant in self.chosen:
            function = _function(self.suite.full_name(mutant.module), mutant.function) if mutant.is_in_body else None
            if function is None:
                continue
            names = executed(mutant)
            if "" in names:
                continue
            verdict = self._verdict(mutant, function, names)
            if verdict is not None:
                self.tell((mutant.module, mutant.number, verdict))

    def _run(self, item: pytest.Item) -> None:
        self._outcome.has_failed = False
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)

    def _executed(self) -> Callable[[Mutant], set[str]]:
        """The tests that execute a mutant's lines, by name; an empty name: they ran while modules were loaded."""
        data = self.measured.get_data()
        paths = self.suite.modules()
        lines = {module: data.contexts_by_lineno(str(path)) for module, path in paths.items()}

        def executed(mutant: Mutant) -> set[str]:
            first, last = mutant.lines
            return {name for line in range(first, last + 1) for name in lines[mutant.module].get(line, ())}

        return executed

    def _survives(self, order: Sequence[str], killed_by: Callable[[int], object]) -> bool:
        """True when none of these tests fails; the place of the one that does is told."""
        for index, name in enumerate(order):
            _limit(self.suite.seconds + 10 * self._seconds[name])
            self._run(self._items[name])
            if self._outcome.has_failed:
                killed_by(index)
                return False
        return True

    def _verdict(self, mutant: Mutant, function: FunctionType, names: Iterable[str]) -> Verdict | None:
        code = _code_of(self.suite.code(mutant), mutant.function)
        if code is None or code.co_freevars != function.__code__.co_freevars:
            return None
        place = f"{mutant.module}:{mutant.function}"
        order = sorted(names, key=lambda name: (-self._kills[place, name], self._seconds[name], name))
        reading, writing = os.pipe()

        def survives() -> bool:
            function.__code__ = code
            return self._survives(order, lambda index: os.write(writing, str(index).encode()))

        verdict = _in_a_fork(survives)
        os.close(writing)
        killer = os.read(reading, 20)
        os.close(reading)
        if killer:
            self._kills[place, order[int(killer)]] += 1
        return verdict


def _function(module: str, name: str) -> FunctionType | None:
    """The function of that name in a loaded module; None when it is inside of another, or not a plain one."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        if isinstance(found, ModuleType | type):
            found = vars(found).get(part)
        if isinstance(found, property):
            found = found.fget
        elif isinstance(found, classmethod | staticmethod):
            found = found.__func__
        if isinstance(found, FunctionType):
            break
    return found if isinstance(found, FunctionType) and found.__module__ == module else None


def _code_of(code: CodeType, name: str) -> CodeType | None:
    """The code of the outermost function on the way to ``name``; None when there is no such, or more than one."""
    for part in name.split("."):
        inner = [one for one in code.co_consts if isinstance(one, CodeType) and one.co_name == part]
        if len(inner) != 1:
            return None
        code = inner[0]
        if code.co_flags & inspect.CO_OPTIMIZED:
            return code
    return None
