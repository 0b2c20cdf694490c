"""Which runs a query asks for."""

from __future__ import annotations

import pytest

from opdispatch.errors import InvalidInput
from opdispatch.query import EVERY_RUN, KindFilter, NamePattern, RunQuery, StateFilter
from opdispatch.run import RunStatus, StatusReason


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("spring", "spring", True),
        ("spring", "Spring", False),
        ("spring", "spring firmware", False),
        ("spring%", "spring\nfirmware", True),
        ("%", "", True),
        ("r_ck", "rack", True),
        ("r_ck", "rck", False),
        (r"50\%", "50%", True),
        (r"50\%", "500", False),
        (r"a\\b", r"a\b", True),
        (r"\a", "a", True),
        ("a.c", "abc", False),
    ],
)
def test_a_pattern_is_that_of_like(pattern: str, name: str, fits: bool) -> None:
    assert NamePattern(text=pattern, is_wild=True).matches(name) is fits


def test_a_plain_name_is_itself_alone() -> None:
    plain = NamePattern(text="50%")

    assert plain.matches("50%")
    assert not plain.matches("50 racks")


@pytest.mark.parametrize(
    ("text", "is_wild", "found"), [("a\\", True, "ends in a backslash"), ("a\0", False, "holds a NUL character")]
)
def test_what_can_be_no_pattern_is_refused(text: str, is_wild: bool, found: str) -> None:
    with pytest.raises(InvalidInput, match=found):
        NamePattern(text=text, is_wild=is_wild)


def test_a_state_without_status_and_reason_is_refused() -> None:
    with pytest.raises(InvalidInput, match="neither a status nor a reason"):
        StateFilter()


def _asked(query: RunQuery) -> bool:
    return query.matches(
        name="spring firmware",
        status=RunStatus.PAUSED,
        reason=StatusReason.SAFETY_GATE,
        type="firmware_control",
        code="upgrade",
    )


def test_the_same_statuses_are_the_same_query_in_whatever_order() -> None:
    statuses = [RunStatus.RUNNING, RunStatus.FAILED]

    assert RunQuery.in_statuses(statuses) == RunQuery.in_statuses(statuses[::-1])


_FITS, _FITS_NOT = NamePattern(text="%firm%", is_wild=True), NamePattern(text="autumn")


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        (EVERY_RUN, True),
        (RunQuery(names=(_FITS,)), True),
        (RunQuery(names=(_FITS, _FITS_NOT)), False),
        (RunQuery(names=(_FITS, _FITS_NOT), any_name=True), True),
        (RunQuery(names=(_FITS_NOT,), any_name=True), False),
        (RunQuery.in_statuses([]), True),
        (RunQuery.in_statuses([RunStatus.FAILED, RunStatus.PAUSED]), True),
        (RunQuery.in_statuses([RunStatus.FAILED]), False),
        (RunQuery(states=(StateFilter(reason=StatusReason.SAFETY_GATE),)), True),
        (RunQuery(states=(StateFilter(status=RunStatus.RUNNING, reason=StatusReason.SAFETY_GATE),)), False),
        (RunQuery(states=(StateFilter(status=RunStatus.PAUSED, reason=StatusReason.PHASE_GATE),)), False),
        (RunQuery(any_name=True), True),
        (RunQuery(kinds=(KindFilter(type="firmware_control"),)), True),
        (RunQuery(kinds=(KindFilter(type="firmware_control", code="upgrade"),)), True),
        (RunQuery(kinds=(KindFilter(type="power_control"), KindFilter(type="firmware_control"))), True),
        (RunQuery(kinds=(KindFilter(type="firmware_control", code="rollback"),)), False),
        (RunQuery(kinds=(KindFilter(type="power_control", code="upgrade"),)), False),
        (RunQuery(names=(_FITS_NOT,), kinds=(KindFilter(type="firmware_control"),)), False),
    ],
)
def test_all_that_is_asked_must_fit(query: RunQuery, fits: bool) -> None:
    assert _asked(query) is fits
