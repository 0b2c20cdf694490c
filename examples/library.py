"""Eight racks in two phases, in memory: one bare decision, then the whole run with a task manager of one's own."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import opdispatch as op
from opdispatch_adapters.dispatcher import Dispatcher
from opdispatch_adapters.memory import MemoryStore

racks = [
    op.Candidate(
        id=op.RackId(UUID(int=number)),
        name=f"r{number}",
        components={"compute": (op.ComponentId(UUID(int=100 + number)),)},
    )
    for number in range(1, 9)
]
rollout = op.Rollout(
    name="firmware",
    operation=op.Operation(type="firmware_control", code="upgrade"),
    selector=op.PercentageSelector(percentage=100, seed="s"),
    ordering=op.RandomOrdering(seed="o"),
    phases=op.PercentagePhases(percentages=(25, 75)),
    auto_advance=True,
    max_concurrent_targets=3,
    gates=(op.FailureCountGate(threshold_count=2, scope=op.GateScope.CUMULATIVE_RUN),),
)
now = datetime.now(UTC)
new = op.new_run(op.plan(racks, rollout), command_id=op.CommandId("first"), actor="me", now=now)

# The bare core: a value in, a value out.  Nothing is called, stored or waited for.
record = op.new_record(new.run, new.targets)
decision = op.decide(op.window(record, observations=(), limits=op.Limits(), now=now))
print(*(f"{type(step.action).__name__}: {step.because}" for step in decision.steps), sep="\n")
assert op.evolve(record, decision).run.status is op.RunStatus.RUNNING


# The same decisions, carried out: a store, a task manager, and a dispatcher between them.
class InstantTasks:
    """Tasks that are over as soon as they begin; the one of rack r3 fails."""

    capacity: int | None = None

    def __init__(self) -> None:
        self.tasks: dict[str, op.TaskStatus] = {}

    def on_change(self, callback: Callable[[op.RunId], None]) -> None:
        self.changed = callback

    def submit(self, requests: Sequence[op.SubmissionRequest], deadline: timedelta) -> Sequence[op.Observation]:
        for asked in requests:
            self.tasks[asked.key] = op.TaskStatus.FAILED if asked.rack_name == "r3" else op.TaskStatus.COMPLETED
            self.changed(asked.run_id)
        return [
            op.SubmissionAccepted(target_id=r.target_id, attempt=r.attempt, fence=r.fence, task_id=op.TaskId(r.key))
            for r in requests
        ]

    def observe(self, refs: Sequence[op.Ref], looked_at: datetime) -> Sequence[op.Observation]:
        return [
            op.TaskObserved(
                target_id=ref.target_id,
                task_id=ref.task_id,
                status=self.tasks[ref.task_id],
                message="",
                looked_at=looked_at,
            )
            for ref in refs
            if isinstance(ref, op.TaskRef)
        ]

    def cancel(self, refs: Sequence[op.TaskRef]) -> Sequence[op.Observation]:
        return []


store = MemoryStore()
run = store.create(new)
dispatcher = Dispatcher(store, InstantTasks())
while not store.get(run.id).run.status.is_terminal:
    dispatcher.run_once(budget=timedelta(seconds=5))
print(store.get(run.id).run.status_message)
