"""opdispatch: phased, gated rollouts over racks, decided by pure functions of immutable values.

The names of ``__all__`` are the public surface; the modules that define them are where each is explained.  Importing
this package needs the standard library alone, opens nothing and starts nothing.  ``decide``, ``control``, ``plan``
and ``evolve`` are the functions here; the modules of the same names are reached by ``from opdispatch.decide import``.
"""

from .action import (
    AcceptFailures,
    Action,
    AnnotateRun,
    BlockTarget,
    CancelTask,
    Change,
    ClaimTarget,
    ContinueRun,
    Decision,
    Effect,
    FinishRun,
    HeldBack,
    NoteTarget,
    OpenPhase,
    PauseRun,
    RearmBlocked,
    RecordStray,
    RecordTask,
    ReleaseHolds,
    RetryTarget,
    ReturnToPhase,
    SetConflictHold,
    SetOperatorHold,
    SettleTarget,
    SkipUnstarted,
    StartRun,
    Step,
    SubmitTask,
    UpdateStray,
    Wait,
)
from .candidate import Candidate, Scope
from .command import Advance, Cancel, Command, Pause, Refusal, Reply, Resume, Retry, Settle
from .control import control
from .decide import decide
from .errors import (
    CorruptRecord,
    InvalidInput,
    NotFound,
    OpdispatchError,
    Problem,
    RefusedTransition,
    Unavailable,
)
from .evolve import Record, evolve, new_record, whole, window
from .explain import Asks, Clears, Code, Reason, explain_run, explain_target
from .identity import (
    CommandId,
    ComponentId,
    IdempotencyKey,
    RackId,
    RunId,
    TargetId,
    TaskId,
    idempotency_key_of,
    run_id_of,
    target_id_of,
)
from .journal import JournalEntry, digest_of, entry_of
from .observation import (
    CancellationRefused,
    Observation,
    SubmissionAbsent,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionRefused,
    SubmissionUnknown,
    TaskMissing,
    TaskObserved,
)
from .plan import Dropped, NewRun, Plan, components_of, new_run, plan
from .policy.conflict import ConflictRetry
from .policy.gates import FailureCountGate, FailureRateGate, Gate, GateScope
from .policy.ordering import LocationStrategy, Ordering, PhysicalOrdering, RandomOrdering
from .policy.phases import CountPhases, EqualPhases, NoPhases, PercentagePhases, PhasePolicy
from .policy.selection import PercentageSelector
from .ports import Glance, Held, Inventory, Listed, Looks, Overview, Store, TaskManager, Trouble
from .query import KindFilter, NamePattern, RunQuery, StateFilter
from .replay import Difference, Replayed, beginning, difference_of, replay
from .rollout import Rollout
from .run import Accepted, Run, RunStatus, Standing, StatusReason
from .state import Limits, RunState
from .tally import Tallies, Tally
from .target import (
    Blocked,
    Cancelling,
    Claimed,
    Conflict,
    Pending,
    Settled,
    Stray,
    Submitted,
    Target,
    TargetState,
    TargetStatus,
)
from .task import ClaimRef, Components, Operation, Ref, SubmissionRequest, TaskRef, TaskStatus

__all__ = [
    # what it does
    "plan",
    "new_run",
    "decide",
    "control",
    "evolve",
    "new_record",
    "window",
    "whole",
    "replay",
    "beginning",
    "difference_of",
    "explain_run",
    "explain_target",
    # ids
    "CommandId",
    "ComponentId",
    "IdempotencyKey",
    "RackId",
    "RunId",
    "TargetId",
    "TaskId",
    "idempotency_key_of",
    "run_id_of",
    "target_id_of",
    # what a rollout is made of
    "Candidate",
    "Components",
    "ConflictRetry",
    "CountPhases",
    "EqualPhases",
    "FailureCountGate",
    "FailureRateGate",
    "Gate",
    "GateScope",
    "LocationStrategy",
    "NoPhases",
    "Operation",
    "Ordering",
    "PercentagePhases",
    "PercentageSelector",
    "PhasePolicy",
    "PhysicalOrdering",
    "RandomOrdering",
    "Rollout",
    "Scope",
    # plans and runs
    "Accepted",
    "Dropped",
    "NewRun",
    "Plan",
    "Record",
    "Run",
    "RunStatus",
    "Standing",
    "StatusReason",
    "Tallies",
    "Tally",
    "components_of",
    # targets
    "Blocked",
    "Cancelling",
    "Claimed",
    "Conflict",
    "Pending",
    "Settled",
    "Stray",
    "Submitted",
    "Target",
    "TargetState",
    "TargetStatus",
    # tasks
    "ClaimRef",
    "Ref",
    "SubmissionRequest",
    "TaskRef",
    "TaskStatus",
    # states and decisions
    "Decision",
    "HeldBack",
    "Limits",
    "RunState",
    "Step",
    "Wait",
    # actions
    "AcceptFailures",
    "Action",
    "AnnotateRun",
    "BlockTarget",
    "CancelTask",
    "Change",
    "ClaimTarget",
    "ContinueRun",
    "Effect",
    "FinishRun",
    "NoteTarget",
    "OpenPhase",
    "PauseRun",
    "RearmBlocked",
    "RecordStray",
    "RecordTask",
    "ReleaseHolds",
    "RetryTarget",
    "ReturnToPhase",
    "SetConflictHold",
    "SetOperatorHold",
    "SettleTarget",
    "SkipUnstarted",
    "StartRun",
    "SubmitTask",
    "UpdateStray",
    # observations
    "CancellationRefused",
    "Observation",
    "SubmissionAbsent",
    "SubmissionAccepted",
    "SubmissionConflicted",
    "SubmissionRefused",
    "SubmissionUnknown",
    "TaskMissing",
    "TaskObserved",
    # commands
    "Advance",
    "Cancel",
    "Command",
    "Pause",
    "Refusal",
    "Reply",
    "Resume",
    "Retry",
    "Settle",
    # queries
    "KindFilter",
    "NamePattern",
    "RunQuery",
    "StateFilter",
    # ports
    "Held",
    "Inventory",
    "JournalEntry",
    "entry_of",
    "digest_of",
    "Listed",
    "Looks",
    "Glance",
    "Overview",
    "Store",
    "TaskManager",
    "Trouble",
    # what is told afterwards
    "Asks",
    "Clears",
    "Code",
    "Difference",
    "Reason",
    "Replayed",
    # errors
    "CorruptRecord",
    "InvalidInput",
    "NotFound",
    "OpdispatchError",
    "Problem",
    "RefusedTransition",
    "Unavailable",
]
