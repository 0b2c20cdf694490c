"""Conflict: waits that double up to the longest, and a window that a resume restarts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from opdispatch.errors import InvalidInput
from opdispatch.policy.conflict import LONGEST, ConflictRetry, spelled
from opdispatch.target import Conflict
from tests.racks import places

NOW = datetime(2031, 4, 2, 10, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_the_defaults_are_the_references() -> None:
    retry = ConflictRetry()

    assert (retry.window, retry.initial_delay, retry.max_delay) == (60 * MINUTE, MINUTE / 2, 5 * MINUTE)


def test_the_first_refusal_waits_for_the_initial_delay() -> None:
    assert ConflictRetry().after_refusal(None, NOW) == Conflict(since=NOW, count=1, delay=MINUTE / 2)


def test_each_wait_is_twice_the_last_up_to_the_longest() -> None:
    retry, history, waits = ConflictRetry(), None, []
    for _ in range(6):
        history = retry.after_refusal(history, NOW)
        waits.append(history.delay.total_seconds())

    assert waits == [30, 60, 120, 240, 300, 300]


def test_a_later_refusal_keeps_the_instant_of_the_first() -> None:
    first = ConflictRetry().after_refusal(None, NOW)

    assert ConflictRetry().after_refusal(first, NOW + MINUTE).since == NOW


def test_each_refusal_is_counted() -> None:
    first = ConflictRetry().after_refusal(None, NOW)

    assert ConflictRetry().after_refusal(first, NOW + MINUTE).count == 2


def test_the_window_begins_with_the_first_refusal() -> None:
    history = Conflict(since=NOW, count=3, delay=MINUTE)

    assert ConflictRetry().window_end(history, None) == NOW + 60 * MINUTE


def test_a_resume_restarts_the_window() -> None:
    history = Conflict(since=NOW, count=3, delay=MINUTE)

    assert ConflictRetry().window_end(history, NOW + MINUTE) == NOW + 61 * MINUTE


def test_a_resume_before_the_first_refusal_does_not_shorten_the_window() -> None:
    history = Conflict(since=NOW, count=3, delay=MINUTE)

    assert ConflictRetry().window_end(history, NOW - MINUTE) == NOW + 60 * MINUTE


def test_every_wait_that_is_not_above_zero_is_told() -> None:
    with pytest.raises(InvalidInput) as error:
        ConflictRetry(window=timedelta(0), initial_delay=-MINUTE, max_delay=timedelta(0))

    assert places(error.value) == ["$.conflict.window", "$.conflict.initial_delay", "$.conflict.max_delay"]


def test_a_longest_delay_below_the_first_is_refused() -> None:
    with pytest.raises(InvalidInput, match="30s is below initial_delay, 1m0s"):
        ConflictRetry(initial_delay=MINUTE, max_delay=MINUTE / 2)


def test_a_longest_delay_may_equal_the_first() -> None:
    retry = ConflictRetry(initial_delay=MINUTE, max_delay=MINUTE)

    assert retry.after_refusal(retry.after_refusal(None, NOW), NOW).delay == MINUTE


def test_a_wait_of_more_than_a_century_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at most 36500 days"):
        ConflictRetry(window=LONGEST + timedelta.resolution)


def test_no_wait_that_is_allowed_leads_past_the_calendar() -> None:
    retry = ConflictRetry(window=LONGEST, initial_delay=LONGEST, max_delay=LONGEST)
    history = retry.after_refusal(retry.after_refusal(None, NOW), NOW)

    assert retry.window_end(history, None) + history.delay < datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3600, "1h0m0s"),
        (90, "1m30s"),
        (1.5, "1.5s"),
        (1, "1s"),
        (60, "1m0s"),
        (0.5, "500ms"),
        (300, "5m0s"),
        (3600.25, "1h0m0.25s"),
        (10, "10s"),
    ],
)
def test_a_duration_is_spelled_as_the_reference_does(seconds: float, text: str) -> None:
    assert spelled(timedelta(seconds=seconds)) == text
