"""The smallest inputs that broke something once, each with what it broke."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import grpc
import pytest

from opdispatch.action import SettleTarget
from opdispatch.decide import decide
from opdispatch.errors import CorruptRecord, InvalidInput, Unavailable
from opdispatch.target import TargetStatus
from opdispatch_adapters.flow.server.failure import CallFailure
from opdispatch_adapters.flow.wire import flow_pb2 as wire
from opdispatch_adapters.sql import documents
from tests.unit.builders import a_state, accepted, all_of, missing, submitted

from .engine import Input
from .surface_answers import Answers
from .surfaces import surface_of

_SAME: Final = '"target_id":["28ea4681-2270-52ea-9bb1-2cdae0e77383"]'
BROKE: Final[dict[str, tuple[str, Input]]] = {
    "a short document stood for a billion observations": (
        "documents",
        Input(
            "observations",
            f'{{"version":2,"value":[{{"kind":"submission_accepted","count":1000000000,"columns":{{{_SAME},'
            '"attempt":[1],"fence":[1],"task_id":["t"]}}]}'.encode(),
        ),
    ),
    "a column that is no list raised a TypeError": (
        "documents",
        Input(
            "observations",
            f'{{"version":2,"value":[{{"kind":"submission_accepted","count":1,"columns":{{{_SAME},'
            '"attempt":9,"fence":[1],"task_id":["t"]}}]}'.encode(),
        ),
    ),
    "half of a character in a key came into a message that no store keeps": (
        "documents",
        Input("held_back", b'{"version":1,"value":[{"\\ud800":1}]}'),
    ),
    "each of a million wrong members was kept as an error with its traceback": (
        "documents",
        Input("held_back", b'{"version":1,"value":[' + b"0," * 200_000 + b"0]}"),
    ),
    "an instant that is none hid every run from the listing": (
        "rows",
        Input("operation_run", b'{"row":0,"values":{"quarantined_at":"-0001-01-01T00:00:00Z"}}'),
    ),
    "a due time that is none kept every run from being served": (
        "rows",
        Input("operation_run", b'{"row":0,"values":{"wake_at":"-"}}'),
    ),
    "a number of errors that is text kept the next error from being recorded": (
        "rows",
        Input("operation_run", b'{"row":0,"values":{"error_count":"","finished_at":"5"}}'),
    ),
    "a count that is text raised a TypeError": (
        "rows",
        Input("operation_run_phase", b'{"row":0,"values":{"terminated":""}}'),
    ),
    "a wait that is too long for the calendar raised an OverflowError": (
        "rows",
        Input("operation_run_stray", b'{"row":0,"values":{"cancel_delay_us":9223372036854775807}}'),
    ),
    "an instant of a target that waits, which is no text, raised a TypeError": (
        "rows",
        Input("operation_run_target", b'{"row":9,"values":{"retry_at":{"text":"ff"}}}'),
    ),
    "a status of any length was quoted whole": (
        "rows",
        Input("operation_run_target", b'{"row":10,"values":{"status":"' + b"x" * 100_000 + b'"}}'),
    ),
    "bytes that are no text hid every run from the listing": (
        "rows",
        Input("operation_run", b'{"row":0,"values":{"status_message":{"text":"ff"}}}'),
    ),
    "a number of failures with thousands of digits was answered as an internal error": (
        "requests",
        Input("metadata", b'[["x-accept-failures","' + b"9" * 5000 + b'"]]'),
    ),
    "a create was answered with an id that is none": ("answers", Input("CreateOperationRun", b"")),
    "the end of a task on record is no text": ("answers", Input("ended", b'{"format":1,"status":"","message":6}')),
    "a read was answered with a failed precondition": (
        "answers",
        Input("error", b'["GetOperationRun","FAILED_PRECONDITION",""]'),
    ),
    "a tag that its text does not fit raised an IndexError": ("rollout_files", Input("yaml", b"g: !!float")),
    "a cell was quoted whole in each of many messages": (
        "inventories",
        Input("racks", b"rack_uuid,rack_id,name,site,room,row,position,group,status," + b"x" * 200_000),
    ),
    "a refusal of Flow held a NUL": ("answers", Input("error", b'["GetListOfRacks","INVALID_ARGUMENT","\\u0000"]')),
}

READ: Final = {
    # What is wrong is put right by being served, or is one record of several that are told of.
    "a due time that is none kept every run from being served",
    "the end of a task on record is no text",
}


@pytest.mark.parametrize("what", BROKE)
def test_it_breaks_nothing_any_more(what: str) -> None:
    name, given = BROKE[what]
    with surface_of(name) as surface:
        assert surface.seeds

        assert surface.takes(given) == (what in READ)


def test_what_is_wrong_with_many_members_is_told_of_the_first_ones() -> None:
    text = '{"version":1,"value":[' + "0," * 100_000 + "0]}"

    with pytest.raises(CorruptRecord) as error:
        documents.held_back_from("it", text)

    assert len(str(error.value)) < 10_000
    assert "@ $[19]" in error.value.detail
    assert "@ $[20]" not in error.value.detail


def test_members_that_are_all_the_same_are_told_one_by_one_in_one_column() -> None:
    told = (accepted(),) * 20_000

    text = documents.observations_text(told)

    assert documents.observations_from("it", text) == told
    assert documents.observations_text(documents.observations_from("it", text)) == text


def test_earlier_members_that_are_told_once_for_all_are_read_up_to_a_bound() -> None:
    one = documents.observations_text((accepted(),))

    assert documents.observations_from("it", one.replace('"count":1', '"count":10000')) == (accepted(),) * 10_000
    with pytest.raises(CorruptRecord, match="stands for more than 10000 members"):
        documents.observations_from("it", one.replace('"count":1', '"count":10001'))


def test_a_task_that_is_missing_at_the_end_of_the_calendar_is_decided_on() -> None:
    last = replace(missing(0), looked_at=datetime.max.replace(tzinfo=UTC))

    decision = decide(a_state(submitted(), observations=(last, last)))

    assert not all_of(decision, SettleTarget)


def test_a_task_that_was_missing_a_grace_time_ago_is_lost_at_the_end_of_the_calendar() -> None:
    last = replace(missing(0), looked_at=datetime.max.replace(tzinfo=UTC))

    (settled,) = all_of(decide(a_state(submitted(missing_since=-1), observations=(last,))), SettleTarget)

    assert settled.status is TargetStatus.FAILED


@pytest.mark.parametrize("character", ["x", "%", "\u00df", "\U0001f600"])
def test_the_text_of_a_refusal_is_cut_to_what_a_client_takes(character: str) -> None:
    text = CallFailure(grpc.StatusCode.INVALID_ARGUMENT, character * 16_384).text

    assert 500 <= len(text) <= 6_003
    assert text == f"{character * (len(text) - 3)}..."
    assert CallFailure(grpc.StatusCode.INVALID_ARGUMENT, "why").text == "why"
    assert CallFailure(grpc.StatusCode.INVALID_ARGUMENT, "x" * 6_000).text == "x" * 6_000


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GetListOfNVLDomains", wire.GetListOfNVLDomainsResponse(nvl_domains=[wire.NVLDomain()], total=2**31 - 1)),
        ("GetListOfRacks", wire.GetListOfRacksResponse(racks=[wire.Rack()], total=2**31 - 1)),
    ],
)
def test_a_page_that_is_answered_for_ever_ends_the_list(method: str, answer: wire.GetListOfRacksResponse) -> None:
    with surface_of("answers") as surface:
        assert isinstance(surface, Answers)
        assert surface.seeds
        with pytest.raises(Unavailable, match="says that there are more"):
            surface.asked(method, answer.SerializeToString())


def test_a_page_of_tasks_that_is_answered_for_ever_ends_the_look() -> None:
    with surface_of("answers") as surface:
        assert isinstance(surface, Answers)
        page = wire.ListTasksResponse.FromString(next(s.data for s in surface.seeds if s.kind == "ListTasks"))
        page.total = 2**31 - 1
        for task in page.tasks:
            task.description = "somebody else's"

        (told,) = surface.asked("ListTasks", page.SerializeToString())

    assert "change faster than they can be read" in told.message


def test_a_server_that_repeats_a_page_of_targets_is_not_believed() -> None:
    with surface_of("answers") as surface:
        assert isinstance(surface, Answers)
        kind = "ListOperationRunTargets"
        page = wire.ListOperationRunTargetsResponse.FromString(next(s.data for s in surface.seeds if s.kind == kind))
        page.total = 2**31 - 1

        with pytest.raises(InvalidInput, match="page 1 repeats a target"):
            surface.asked(kind, page.SerializeToString())


def test_a_server_that_tells_of_a_billion_phases_is_not_believed() -> None:
    answer = wire.GetOperationRunResponse()
    answer.operation_run.summary.total_phases = 2**31 - 1
    with surface_of("answers") as surface:
        assert isinstance(surface, Answers)
        assert surface.seeds
        with pytest.raises(InvalidInput, match="a run has at most 100000"):
            surface.asked("GetOperationRun", answer.SerializeToString())
