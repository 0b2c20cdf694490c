"""Each checker on histories written by hand: silent on a good one, and told of each thing that must not be."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from .checkers import CHECKERS, findings
from .history import Asked, Call, Change, Entry, Kind, Merged, Outcome, Row, RunHistory, Task

PAUSED, RESUMED = "it is paused", "it goes on"


def a_task(target: str, began: float, ends: float, **changes: Any) -> Task:
    """A task of the first attempt of a target, begun for its first claim."""
    task = Task(
        key=f"key {target}",
        target=target,
        attempt=1,
        fence=1,
        began=began,
        until=began + 1,
        ends=ends,
        status="completed",
    )
    return replace(task, **changes)


def asked_for(task: Task) -> Asked:
    return Asked(key=task.key, target=task.target, attempt=task.attempt, fence=task.fence, at=task.began)


def claim(target: str, lease_until: float) -> Change:
    return Change(kind=Kind.CLAIM, target=target, lease_until=lease_until)


def record(target: str) -> Change:
    return Change(kind=Kind.RECORD, target=target, task=f"key {target}")


def settle(target: str, status: str = "completed") -> Change:
    return Change(kind=Kind.SETTLE, target=target, status=status)


def a_command(number: int, at: float, verb: str, reply: str, *changes: Change, **more: Any) -> Entry:
    replies = {"cli": reply, "grpc": f"wire: {reply}"}
    return Entry(
        number=number, at=at, command=f"{verb} 1", verb=verb, accepted=True, replies=replies, changes=changes, **more
    )


def a_call(verb: str, began: float, ended: float, reply: str, **changes: Any) -> Call:
    call = Call(
        process="operator",
        way="cli",
        what=verb,
        run="r",
        command=f"{verb} 1",
        began=began,
        ended=ended,
        outcome=Outcome.OK,
        reply=reply,
    )
    return replace(call, **changes)


def a_read(began: float, revision: int) -> Call:
    return a_call("read", began, began + 0.1, str(revision), way="store", command="", process="observer")


def a_history() -> RunHistory:
    """Racks a and b in the first phase, c in the second; a pause with b's claim open, asked twice, and a resume."""
    tasks = (a_task("a", 1.5, 2.5), a_task("b", 4.5, 6.0), a_task("c", 8.5, 9.0, status="failed"))
    return RunHistory(
        run="r",
        quota=2,
        status="completed_with_failures",
        revision=9,
        slack=0.001,
        rows=(
            Row(id="a", phase=0, status="completed", fence=1, task="key a"),
            Row(id="b", phase=0, status="completed", fence=1, task="key b"),
            Row(id="c", phase=1, status="failed", fence=1, task="key c"),
        ),
        tasks=tasks,
        requests=tuple(map(asked_for, tasks)),
        entries=(
            Entry(number=1, at=1.0, changes=(claim("a", 4.0),)),
            Entry(number=2, at=2.0, changes=(record("a"),)),
            Entry(number=3, at=3.0, changes=(settle("a"), claim("b", 6.0))),
            a_command(4, 4.0, "pause", PAUSED, Change(kind=Kind.HOLD), revision=4),
            Entry(number=5, at=5.0, changes=(record("b"),)),
            Entry(number=6, at=6.5, changes=(settle("b"),)),
            a_command(7, 7.0, "resume", RESUMED, Change(kind=Kind.RELEASE), revision=7),
            Entry(number=8, at=8.0, changes=(claim("c", 11.0),)),
            Entry(number=9, at=9.5, changes=(record("c"), settle("c", "failed"), Change(kind=Kind.FINISH))),
        ),
        calls=(
            a_read(0.5, 0),
            a_call("pause", 3.5, inf, "", outcome=Outcome.UNKNOWN),
            a_call("pause", 3.6, 4.2, PAUSED),
            a_call("pause", 4.3, 4.4, f"wire: {PAUSED}", way="grpc"),
            a_read(4.5, 4),
            a_call("resume", 6.8, 7.1, RESUMED),
            a_read(9.6, 9),
        ),
    )


def test_nothing_is_found_in_a_good_history() -> None:
    assert findings(a_history()) == []


Tampering = Callable[[RunHistory], RunHistory]


def _row(index: int, **changes: Any) -> Tampering:
    return lambda history: replace(history, rows=_with(history.rows, index, **changes))


def _task(index: int, **changes: Any) -> Tampering:
    return lambda history: replace(history, tasks=_with(history.tasks, index, **changes))


def _entry(index: int, **changes: Any) -> Tampering:
    return lambda history: replace(history, entries=_with(history.entries, index, **changes))


def _call(index: int, **changes: Any) -> Tampering:
    return lambda history: replace(history, calls=_with(history.calls, index, **changes))


def _run(**changes: Any) -> Tampering:
    return lambda history: replace(history, **changes)


def _with(values: tuple[Any, ...], index: int, **changes: Any) -> tuple[Any, ...]:
    return (*values[:index], replace(values[index], **changes), *values[index + 1 :])


def _more_tasks(*tasks: Task) -> Tampering:
    return lambda history: replace(history, tasks=(*history.tasks, *tasks))


def _more_calls(*calls: Call) -> Tampering:
    return lambda history: replace(history, calls=(*history.calls, *calls))


def _swapped(history: RunHistory) -> RunHistory:
    """The resume is decided before the pause that was answered before it was asked for; the clock is not looked at."""
    entries = list(history.entries)
    entries[3], entries[6] = replace(entries[6], number=4, at=3.0), replace(entries[3], number=7, at=7.0)
    return replace(history, entries=tuple(entries), slack=100.0)


BAD: list[tuple[str, str, Tampering, str]] = [
    ("lost", "a target is left", _row(0, status="submitted"), "target a is submitted"),
    ("lost", "nobody began its task", _row(0, task="key z"), "never began its task key z"),
    ("lost", "its task is not known", _row(0, task=""), r"never began its task \(none\)"),
    ("lost", "it has the task of another", _row(0, task="key b"), "has the task of target b"),
    ("lost", "its task ended otherwise", _row(0, status="failed"), "is failed, and its task key a completed"),
    ("duplicated", "a key twice", _more_tasks(a_task("a", 3.0, 3.2)), "key key a began 2 tasks"),
    ("duplicated", "an attempt twice", _more_tasks(a_task("a", 3.0, 3.2, key="key a2")), "attempt 1 of target a"),
    ("duplicated", "two at once", _more_tasks(a_task("a", 2.0, 3.2, key="key a2", attempt=2)), "while key a was alive"),
    ("orphaned", "nobody recorded it", _entry(1, changes=()), "task key a is in no entry"),
    ("orphaned", "the run has no such target", _more_tasks(a_task("z", 3.0, 3.1)), "which the run does not have"),
    ("orphaned", "a stray is open", _run(open_strays=1), "1 strays are open"),
    ("over_quota", "one too many", lambda h: replace(_task(0, ends=5.0)(h), quota=1), "while 1 others were alive"),
    ("unclaimed", "nobody claimed it", _entry(0, changes=()), "fence 1, was asked for without a claim"),
    ("unclaimed", "claimed too late", _entry(0, at=1.9), "was asked for before entry 1 claimed it"),
    ("unclaimed", "an older claim", _task(0, fence=2), "began for fence 2, which nobody claimed"),
    ("unclaimed", "begun too late", _task(0, until=1.0), "0.500 s after its deadline"),
    ("begun_while_held", "claimed while paused", _entry(4, changes=(record("b"), claim("c", 8.0))), "entry 5 claims"),
    ("begun_while_held", "claimed after the end", _entry(2, changes=(Change(kind=Kind.FINISH),)), "after entry 3"),
    ("begun_while_held", "begun while paused", _entry(6, changes=()), "key c was claimed and begun after pause"),
    ("begun_while_held", "begun after its lease", _entry(2, changes=(settle("a"), claim("b", 4.4))), "after its lease"),
    ("begun_while_held", "begun after a cancel", _entry(3, verb="cancel"), "claimed and begun after cancel"),
    ("phases_early", "claimed early", _entry(5, changes=()), "claims target c of phase 1 while b of phase 0"),
    ("phases_early", "begun early", _task(1, ends=8.6), "key c of a later phase began while key b was alive"),
    ("unacknowledged", "not in the journal", _entry(3, command="", verb=""), "the journal does not have it"),
    ("unacknowledged", "twice in the journal", _entry(6, command="pause 1"), "is in entries 4, 7"),
    ("unacknowledged", "another answer", _call(2, reply="no"), "was told no for pause 1; the journal says"),
    (
        "unacknowledged",
        "another answer to a repeat",
        lambda h: _more_calls(a_call("pause", 5.0, 5.1, "no"))(_entry(3, replies={})(h)),
        "operator was told it is paused",
    ),
    ("unacknowledged", "refused and done", _call(5, outcome=Outcome.FAIL), "is fail for operator, and entry 7"),
    ("unacknowledged", "refused at once", _call(5, outcome=Outcome.FAIL, reply=""), "refused at once, and entry 7"),
    ("unacknowledged", "nobody asked", _entry(4, command="pause 2", verb="pause"), "nobody asked for it"),
    ("disordered", "a gap", _entry(8, number=11), "entry 11 follows entry 8"),
    ("disordered", "an older one", _entry(8, at=7.5), "entry 9 is older"),
    ("disordered", "decided before it was asked for", _entry(6, at=6.7), "outside the calls for its command resume 1"),
    ("disordered", "decided after it was answered", _entry(6, at=7.5), "outside the calls for its command resume 1"),
    ("disordered", "the other way round", _swapped, "pause 1 began after a later entry|resume 1 began after a later"),
    ("disordered", "a read forgets an answer", _call(4, reply="3"), "read revision 3 after somebody was told 4"),
    ("disordered", "a read of what never was", _call(6, reply="10"), "and the run is at 9"),
    ("unended", "it goes on", _run(status="paused"), "it is paused"),
    ("unended", "in trouble", _run(trouble="it cannot be read"), "it is in trouble: it cannot be read"),
]


@pytest.mark.parametrize(
    ("checker", "tampering", "text"),
    [(checker, tampering, text) for checker, _, tampering, text in BAD],
    ids=[f"{checker}: {what}" for checker, what, _, _ in BAD],
)
def test_what_must_not_be_is_found(checker: str, tampering: Tampering, text: str) -> None:
    found = "\n".join(CHECKERS[checker](tampering(a_history())))

    assert re.search(text, found), f"found: {found}"


def test_every_checker_is_shown_to_fail() -> None:
    assert {checker for checker, *_ in BAD} == set(CHECKERS)


def _settled_by_hand(history: RunHistory) -> RunHistory:
    """An operator settles b while its task is alive, which becomes a stray; its slot is free from then on."""
    entries = list(history.entries)
    stray = Change(kind=Kind.STRAY, target="b", task="key b")
    entries[5] = a_command(6, 5.5, "settle", "settled", settle("b", "skipped"), stray, revision=6)
    calls = (*history.calls, a_call("settle", 5.2, 5.7, "settled"))
    found = replace(history, entries=tuple(entries), calls=calls, rows=_with(history.rows, 1, status="skipped"))
    return replace(_task(1, ends=8.8)(found), quota=1)


def test_what_an_operator_settled_frees_its_slot_and_its_phase_while_its_task_is_ended() -> None:
    assert findings(_settled_by_hand(a_history())) == []


def test_a_claim_that_is_renewed_after_a_retry_opened_an_earlier_phase_is_not_early() -> None:
    history = a_history()
    entries = (
        *history.entries[:8],
        a_command(9, 8.1, "retry", "again", Change(kind=Kind.RETRY, target="a"), revision=9),
        Entry(number=10, at=8.2, changes=(claim("c", 12.0),)),
        Entry(number=11, at=8.3, changes=(claim("a", 12.0),)),
        Entry(number=12, at=9.5, changes=(record("c"), settle("c", "failed"))),
        Entry(number=13, at=9.6, changes=(Change(kind=Kind.RECORD, target="a", task="key a 2"), settle("a"))),
    )
    tasks = (
        *history.tasks[:2],
        replace(history.tasks[2], fence=2),
        a_task("a", 8.6, 9.4, key="key a 2", attempt=2, fence=2),
    )
    rows = (replace(history.rows[0], attempt=2, fence=2, task="key a 2"), *history.rows[1:])
    changed = replace(
        history,
        entries=entries,
        tasks=tasks,
        rows=rows,
        requests=tuple(map(asked_for, tasks)),
        calls=(*history.calls, a_call("retry", 8.05, 8.4, "again")),
    )

    assert findings(changed) == []


def test_a_command_whose_callers_heard_nothing_may_be_in_the_journal_or_not() -> None:
    unheard = a_call("cancel", 5.0, inf, "", outcome=Outcome.UNKNOWN)
    history = a_history()
    without = replace(history, calls=(*history.calls, unheard))
    refused = replace(a_command(10, 9.8, "cancel", "it has ended"), accepted=False)

    assert findings(without) == []
    assert findings(replace(without, entries=(*history.entries, refused))) == []


def test_lines_of_several_processes_are_put_together_into_calls() -> None:
    asked = {"way": "cli", "what": "pause", "run": "r", "command": "pause 1"}
    lines = [
        {"line": "invoke", "process": "one", "call": 1, "at": 1.0, **asked},
        {"line": "invoke", "process": "two", "call": 1, "at": 0.5, **asked},
        {"line": "ok", "process": "one", "call": 1, "at": 2.0, "reply": PAUSED},
        {"line": "invoke", "process": "one", "call": 2, "at": 3.0, **asked},
        {"line": "unknown", "process": "one", "call": 2, "at": 4.0, "reply": "no server"},
        {"line": "invoke", "process": "one", "call": 3, "at": 5.0, **asked, "run": "another"},
    ]

    merged = Merged().add(lines)

    found = [(call.process, call.began, call.ended, call.outcome, call.is_answered) for call in merged.take("r")]
    assert found == [
        ("two", 0.5, inf, Outcome.UNKNOWN, False),
        ("one", 1.0, 2.0, Outcome.OK, True),
        ("one", 3.0, inf, Outcome.UNKNOWN, False),
    ]
    assert [call.run for call in merged.calls.values()] == ["another"]
    merged.keep({"r"})
    assert merged.calls == {}


def test_an_end_of_what_was_never_begun_is_refused() -> None:
    with pytest.raises(ValueError, match="which it never began"):
        Merged().add([{"line": "ok", "process": "one", "call": 1, "at": 2.0, "reply": PAUSED}])
