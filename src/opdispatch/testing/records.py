"""What must hold of every record, whatever led to it."""

from __future__ import annotations

from typing import Final

from ..evolve import Record
from ..run import RunStatus
from ..tally import counted
from ..target import FAILURES, TargetStatus
from .law import Law, Verdicts

_OF_OUTCOMES: Final = (RunStatus.COMPLETED, RunStatus.COMPLETED_WITH_FAILURES, RunStatus.FAILED)


def _totals(record: Record) -> Verdicts:
    for phase, tally in enumerate(record.phases):
        recount = counted(target for target in record.targets.values() if target.phase == phase)
        same = all(tally.of(status) == recount.of(status) for status in TargetStatus)
        yield same, f"phase {phase} counts {tally.numbers[:8]} and has {recount.numbers[:8]}"


def _ends(record: Record) -> Verdicts:
    run, targets = record.run, record.targets.values()
    yield (run.finished_at is not None) == run.status.is_terminal, "a run has an end exactly when it has ended"
    yield run.started_at is not None or run.status is not RunStatus.RUNNING, "a running run has started"
    all_settled = all(target.status.is_settled for target in targets)
    yield all_settled or run.status not in _OF_OUTCOMES, f"{run.status}, and not every target is settled"
    failed = sum(target.status in FAILURES for target in targets)
    fits = {
        RunStatus.COMPLETED: failed == 0,
        RunStatus.COMPLETED_WITH_FAILURES: 0 < failed < len(targets),
        # A plan that cannot be carried out fails the run, too.
        RunStatus.FAILED: failed == len(targets) or any(tally.total == 0 for tally in record.phases),
    }
    yield fits.get(run.status, True), f"{run.status}, and {failed} of {len(targets)} targets failed"
    waiting = sum(target.status in (TargetStatus.PENDING, TargetStatus.BLOCKED) for target in targets)
    yield waiting == 0 or not run.status.is_terminal, f"{run.status}, and {waiting} targets wait for their turn"


def _pointer(record: Record) -> Verdicts:
    run = record.run
    yield 0 <= run.phase <= run.opened, f"the pointer is at {run.phase}, and {run.opened} is the last phase opened"
    yield run.opened < max(run.phases, 1), f"phase {run.opened} is open, and there are {run.phases}"
    early = [t.sequence for t in record.targets.values() if t.phase > run.opened and t.status.holds_slot]
    yield not early, f"targets {early} are in flight in a phase that was never opened"


def _one_task(record: Record) -> Verdicts:
    tasks = [task_id for target in record.targets.values() if (task_id := target.task_id) is not None]
    yield len(set(tasks)) == len(tasks), "two targets have one task"
    both = sorted(set(tasks) & set(record.strays))
    settled = {t.task_id for t in record.targets.values() if t.status.is_settled}
    yield all(task in settled for task in both), f"{both} are strays and tasks in flight"


RECORD_LAWS: Final[tuple[Law[Record], ...]] = (
    Law(name="totals", rule="The counts of each phase equal the counts of its targets.", check=_totals),
    Law(name="ends", rule="A run's status agrees with its targets, and an ended run leaves none waiting.", check=_ends),
    Law(name="pointer", rule="Nothing is in flight in a phase that was never opened.", check=_pointer),
    Law(name="one task", rule="A task belongs to one target, or is a stray.", check=_one_task),
)
