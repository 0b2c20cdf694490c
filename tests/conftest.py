"""Every row of both transition tables must be taken by the suite, and not by the tests of the tables alone.

A row that no decision and no command ever takes is dead, or a case that nobody thought of a test for.  The rows are
noted where the machines look them up, in every worker, and judged at the end of a session that ran the whole suite.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from opdispatch import action, run, target
from opdispatch.identity import RunId
from opdispatch.run import RunChange, RunStatus
from opdispatch.target import Target, TargetChange
from opdispatch_adapters.sql import migrate

pytest_plugins = ("tests.postgres",)
ROOT: Final = Path(__file__).parents[1]
OF_THE_TABLES: Final = ("tests/unit/test_run.py", "tests/unit/test_target.py")
"""They take every row because the table has it."""
NARROWING: Final = ("keyword", "markexpr", "lf", "deselect", "ignore", "ignore_glob", "collectonly")
"""The options that leave tests out: such a session proves nothing about the rows."""
ROWS: Final = {f"run: {status}, {change}" for status, change in run.TRANSITIONS} | {
    f"target: {status}, {change}" for status, change in target.TRANSITIONS
}
UNCOVERED: Final = ("integration", "fuzz", "histories", "model", "mutants", "mutation", "proof")
"""The tests that try the whole.  They would take up to three times as long while the lines of the core are counted; the
others must reach every line of it by themselves."""
_TAKEN: Final = pytest.StashKey[set[str]]()
_LEFT: Final = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TAKEN] = set()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Begun in the background by a shell: the programs that the tests interrupt would inherit it, and obey.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.relative_to(ROOT).parts[1] in UNCOVERED:
            item.add_marker(pytest.mark.no_cover)


@pytest.fixture(scope="session")
def postgres_prepare() -> Callable[[str], object]:
    """Every test's database has the tables already."""
    return migrate


@pytest.fixture(scope="session", autouse=True)
def _note_the_rows(request: pytest.FixtureRequest) -> Iterator[None]:
    taken = request.config.stash[_TAKEN]
    check, following = Target._check, run.next_status

    def noted_check(self: Target, change: TargetChange) -> None:
        check(self, change)
        taken.add(f"target: {self.status}, {change}")

    def noted_next_status(run_id: RunId, status: RunStatus, change: RunChange) -> RunStatus:
        after = following(run_id, status, change)
        taken.add(f"run: {status}, {change}")
        return after

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Target, "_check", noted_check)
        patch.setattr(action, "next_status", noted_next_status)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """The tests of the tables leave the notes as they were."""
    taken = item.config.stash[_TAKEN]
    before = set(taken)
    yield
    if item.path.relative_to(ROOT).as_posix() in OF_THE_TABLES:
        taken.intersection_update(before)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker has ended: take its notes."""
    taken: set[str] = node.config.stash[_TAKEN]
    taken.update(node.workeroutput.get("rows", ()))


def _ran_everything(config: pytest.Config) -> bool:
    chosen = config.args_source is pytest.Config.ArgsSource.ARGS and config.args != ["tests"]
    return not chosen and not any(config.getoption(name, None) for name in NARROWING)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """A worker hands its notes over; whoever leads the session judges them all."""
    config = session.config
    taken = config.stash[_TAKEN]
    yield
    if hasattr(config, "workeroutput"):
        config.workeroutput["rows"] = sorted(taken)
    elif session.exitstatus == pytest.ExitCode.OK and _ran_everything(config) and taken < ROWS:
        config.stash[_LEFT] = sorted(ROWS - taken)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    left = config.stash.get(_LEFT, [])
    if left:
        terminalreporter.section("rows of the transition tables that nothing took")
        for row in left:
            terminalreporter.line(row)
