"""A plan for people: the phases, what stops each, the racks touched and dropped, and the worst case at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from opdispatch.candidate import Candidate
from opdispatch.plan import Plan
from opdispatch.policy.conflict import spelled
from opdispatch.policy.gates import Gate, GateScope

from . import view
from .planning import Asked
from .render import counted, table

_DROPPED_SHOWN: Final = 20
_NAMED: Final = 8


def lines(given: Asked, made: Plan, width: int | None, *, every_rack: bool) -> list[str]:
    """What a run would be, in a screenful."""
    rollout = made.rollout
    sizes = made.sizes
    operation = rollout.operation
    text = [
        f"{rollout.name}: {operation.type}/{operation.code}",
        (
            f"{counted(len(made.racks), 'rack')} in {counted(len(sizes), 'phase')}, "
            f"{len(made.dropped)} dropped, {made.unselected} not selected"
        ),
        f"worst case at once: {counted(min(rollout.max_concurrent_targets, max(sizes)), 'rack')}",
        "",
    ]
    rows = [
        [str(index), str(sizes[index]), _stops(rollout.gates, sizes, index), _names(made.phase(index), every_rack)]
        for index in range(len(sizes))
    ]
    text.extend(table(("PHASE", "RACKS", "STOPS AT", "WHICH"), rows, width=None if every_rack else width, right=(1,)))
    text.append("")
    how = "the next one opens by itself" if rollout.auto_advance else "the next one waits for `opdispatch advance`"
    if len(sizes) > 1:
        text.append(f"after each phase {how}")
    conflict = rollout.conflict
    text.append(
        f"a busy rack is tried again after {spelled(conflict.initial_delay)} to {spelled(conflict.max_delay)}; "
        f"after {spelled(conflict.window)} the run is held"
    )
    if made.dropped:
        text.append(f"dropped: {_reasons(made)}")
        text.extend(f"  {one.candidate.name}: {one.why}" for one in made.dropped[:_DROPPED_SHOWN])
        if len(made.dropped) > _DROPPED_SHOWN:
            text.append(f"  and {len(made.dropped) - _DROPPED_SHOWN} more")
    if given.program is not None:
        text.append(f"runs: {' '.join(given.program.argv)}")
    text.append(f"request id {given.request_id}; a run of it is {given.run_id}")
    text.append("nothing was written")
    return text


def _reasons(made: Plan) -> str:
    counts = Counter(one.why for one in made.dropped)
    return ", ".join(f"{count} because {why}" for why, count in sorted(counts.items()))


def _names(racks: Sequence[Candidate], every_rack: bool) -> str:
    return view.racks([rack.name for rack in racks], len(racks) if every_rack else _NAMED)


def _stops(gates: Sequence[Gate], sizes: Sequence[int], index: int) -> str:
    """How many failures stop the run while this phase is the current one, by each gate."""
    return ", ".join(_stop(gate, sizes, index) for gate in gates)


def _stop(gate: Gate, sizes: Sequence[int], index: int) -> str:
    cumulative = gate.scope is GateScope.CUMULATIVE_RUN
    targets = sum(sizes[: index + 1]) if cumulative else sizes[index]
    least = next((failures for failures in range(1, targets + 1) if gate.trips(failures, targets)), None)
    if least is None:
        return "never"
    return f"{counted(least, 'failure')} of {targets}{' so far' if cumulative else ''}"
