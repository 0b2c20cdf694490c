"""The counters against the targets: what they must equal after every transaction."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, RowMapping, case, func, select, text

from opdispatch.target import TargetStatus

from . import schema
from .schema import phase, target


def differences(connection: Connection) -> Iterator[str]:
    """One sentence per counter or cursor that does not fit the targets; failures before a retry cannot be recounted."""
    c = target.c
    flying, pending = text(schema.IN_FLIGHT), text(schema.PENDING)
    counted = select(
        c.operation_run_id,
        c.phase_index,
        *(func.sum(case((c.status == status.value, 1), else_=0)).label(status.value) for status in TargetStatus),
        func.min(case((flying, c.sequence_index))).label("lowest"),
        func.max(case((flying, c.sequence_index))).label("highest"),
        func.min(case((pending, c.sequence_index))).label("first"),
    ).group_by(c.operation_run_id, c.phase_index)
    found = {(row["operation_run_id"], row["phase_index"]): row for row in connection.execute(counted).mappings()}
    for stored in connection.execute(select(phase)).mappings():
        run_id, index = stored["operation_run_id"], stored["phase_index"]
        for difference in _of_phase(stored, found.pop((run_id, index), None)):
            yield f"run {run_id}, phase {index}: {difference}"
    for run_id, index in found:
        yield f"run {run_id}, phase {index}: it has targets and no counters"


def _of_phase(stored: RowMapping, found: RowMapping | None) -> Iterator[str]:
    for status in TargetStatus:
        count = found[status.value] if found else 0
        if stored[status.value] != count:
            yield f"{stored[status.value]} targets are counted as {status}, and {count} are"
    if found is None:
        return
    low, high, first = stored["low_seq"], stored["high_seq"], stored["next_seq"]
    if found["lowest"] is not None and not low <= found["lowest"] <= found["highest"] < high:
        yield f"targets in flight stand at {found['lowest']} to {found['highest']}, outside {low} to {high - 1}"
    if found["first"] is not None and found["first"] < first:
        yield f"a pending target stands at {found['first']}, below {first}"
