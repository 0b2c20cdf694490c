"""The counters against the targets: what they must equal after every transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, RowMapping, case, func, select, text

from opdispatch.target import TargetStatus

from . import schema
from .schema import phase, target

_SHOWN: Final = 10


def differences(connection: Connection) -> Iterator[str]:
    """One sentence per counter or cursor that does not fit the targets; failures before a retry cannot be recounted."""
    c = target.c
    flying, new = text(schema.IN_FLIGHT), text(schema.NEW)
    counted = select(
        c.operation_run_id,
        c.phase_index,
        *(func.sum(case((c.status == status.value, 1), else_=0)).label(status.value) for status in TargetStatus),
        func.min(case((new, c.sequence_index))).label("first"),
    ).group_by(c.operation_run_id, c.phase_index)
    in_flight: dict[tuple[UUID, int], list[int]] = {}
    held = select(c.operation_run_id, c.phase_index, c.sequence_index).where(flying).order_by(c.sequence_index)
    for run_id, index, sequence in connection.execute(held):
        in_flight.setdefault((run_id, index), []).append(sequence)
    found = {(row["operation_run_id"], row["phase_index"]): row for row in connection.execute(counted).mappings()}
    for stored in connection.execute(select(phase)).mappings():
        run_id, index = stored["operation_run_id"], stored["phase_index"]
        here = in_flight.get((run_id, index), [])
        for difference in _of_phase(stored, found.pop((run_id, index), None), here):
            yield f"run {run_id}, phase {index}: {difference}"
    for run_id, index in found:
        yield f"run {run_id}, phase {index}: it has targets and no counters"


def _of_phase(stored: RowMapping, found: RowMapping | None, in_flight: Sequence[int]) -> Iterator[str]:
    for status in TargetStatus:
        count = found[status.value] if found else 0
        if stored[status.value] != count:
            yield f"{stored[status.value]} targets are counted as {status}, and {count} are"
    if found is None:
        return
    noted, first = stored["in_flight"], stored["next_seq"]
    if list(noted) != in_flight:
        yield f"targets in flight are noted at {_places(noted)}, and stand at {_places(in_flight)}"
    if found["first"] is not None and found["first"] < first:
        yield f"a pending target stands at {found['first']}, below {first}"


def _places(sequences: Sequence[int]) -> str:
    """The first few of them: a difference is told by these, and a thousand make no sentence."""
    shown = ", ".join(map(str, sequences[:_SHOWN]))
    return f"{shown} and {len(sequences) - _SHOWN} more" if len(sequences) > _SHOWN else shown or "no place"
