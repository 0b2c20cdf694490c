"""What the histories of the conformance suite are made of, as strategies of Hypothesis."""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import UUID

from hypothesis import strategies as st

from opdispatch.candidate import Candidate
from opdispatch.identity import ComponentId, RackId
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.gates import FailureCountGate, FailureRateGate, Gate, GateScope
from opdispatch.policy.ordering import RandomOrdering
from opdispatch.policy.phases import EqualPhases
from opdispatch.policy.selection import PercentageSelector
from opdispatch.query import KindFilter, NamePattern, RunQuery, StateFilter
from opdispatch.rollout import Rollout
from opdispatch.run import RunStatus, StatusReason
from opdispatch.state import Limits
from opdispatch.target import TargetStatus
from opdispatch.task import Operation, TaskStatus

_NAMES: Final = st.sampled_from(
    ("conformance", "Conformance", "50%_[a-z]*?", "r\N{LATIN SMALL LETTER U WITH DIAERESIS}n")
)
_PATTERNS: Final = st.sampled_from(("con%", "%F%", "______a%", r"50\%\_[%", "%*?", "%", "r_n", r"\c%", ""))
SECONDS: Final = st.sampled_from((0, 1, 9, 10, 16, 31, 61, 301))
"""How long passes."""
MESSAGES: Final = st.sampled_from(("", "no answer", "rack busy \N{EM DASH} 'quoted'", "line\nbreak"))
"""What a task manager says."""
LIKELY: Final = st.sampled_from((*TaskStatus, *[TaskStatus.COMPLETED] * 4, TaskStatus.FAILED))
"""How a task stands: mostly completed."""
_GATES: Final[tuple[tuple[Gate, ...], ...]] = (
    (),
    (FailureCountGate(threshold_count=1),),
    (FailureRateGate(threshold_percent=50, scope=GateScope.CUMULATIVE_RUN),),
    (
        FailureCountGate(threshold_count=2, outcomes=frozenset({TargetStatus.TERMINATED})),
        FailureRateGate(threshold_percent=40),
    ),
)
LIMITS: Final = st.builds(
    Limits,
    claims=st.sampled_from((None, None, 0, 1, 2)),
    missing_grace=st.just(timedelta(seconds=30)),
)


@st.composite
def rollouts(draw: st.DrawFn) -> tuple[Rollout, list[Candidate]]:
    """A rollout over two to eight racks, and the racks."""
    racks = draw(st.integers(2, 8))
    candidates = [
        Candidate(id=RackId(UUID(int=n)), name=f"r{n}", components={"compute": (ComponentId(UUID(int=100 + n)),)})
        for n in range(1, racks + 1)
    ]
    rollout = Rollout(
        name=draw(_NAMES),
        operation=Operation(type="firmware_control", code="upgrade", payload='{"b": 1, "a": [2.5]}'),
        selector=PercentageSelector(percentage=100, seed="s"),
        ordering=RandomOrdering(seed="o"),
        max_concurrent_targets=draw(st.integers(1, 3)),
        gates=draw(st.sampled_from(_GATES)),
        phases=EqualPhases(count=draw(st.integers(1, min(3, racks)))),
        auto_advance=draw(st.booleans()),
        conflict=ConflictRetry(
            window=timedelta(seconds=120), initial_delay=timedelta(milliseconds=10_500), max_delay=timedelta(seconds=40)
        ),
        annex=draw(st.sampled_from(("{}", '{"queue_options": {"conflict_strategy": 1}, "more": "1.0"}'))),
    )
    return rollout, candidates


@st.composite
def queries(draw: st.DrawFn) -> RunQuery:
    """What a list of runs is asked for."""
    name = st.builds(NamePattern, text=_NAMES | _PATTERNS, is_wild=st.booleans())
    state = st.builds(StateFilter, status=st.sampled_from(RunStatus), reason=st.none() | st.sampled_from(StatusReason))
    kind = st.builds(
        KindFilter, type=st.sampled_from(("firmware_control", "other")), code=st.sampled_from((None, "upgrade", "x"))
    )
    return RunQuery(
        names=tuple(draw(st.lists(name, max_size=2))),
        any_name=draw(st.booleans()),
        states=tuple(draw(st.lists(state | st.just(StateFilter(reason=StatusReason.NONE)), max_size=2))),
        kinds=tuple(draw(st.lists(kind, max_size=2))),
    )
