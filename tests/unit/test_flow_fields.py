"""Instants and durations of the wire, whatever numbers are in them: what they say, or a refusal at their place."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from opdispatch.errors import InvalidInput
from opdispatch_adapters.flow.fields import duration_at, instant_at, timestamp_message

_SECONDS: Final = st.integers(-(2**63), 2**63 - 1) | st.integers(-400_000_000_000, 400_000_000_000)
_NANOS: Final = st.integers(-(2**31), 2**31 - 1) | st.integers(-1_000_000_001, 1_000_000_001)
_YEAR_1, _YEAR_10000 = -62_135_596_800, 253_402_300_800
"""Seconds since 1970 of the first instant of the calendar, and of the first one after it."""


@given(seconds=_SECONDS, nanos=_NANOS)
def test_an_instant_is_what_the_field_says_or_is_refused_at_its_place(seconds: int, nanos: int) -> None:
    message = Timestamp(seconds=seconds, nanos=nanos)
    if _YEAR_1 <= seconds < _YEAR_10000 and 0 <= nanos < 10**9:
        cut = Timestamp(seconds=seconds, nanos=nanos // 1000 * 1000)
        assert timestamp_message(instant_at(message, "run.at")) == cut
    else:
        with pytest.raises(InvalidInput, match=r"^run\.at: "):
            instant_at(message, "run.at")


@given(seconds=_SECONDS, nanos=_NANOS)
def test_a_wait_is_what_the_field_says_or_is_refused_at_its_place(seconds: int, nanos: int) -> None:
    message = Duration(seconds=seconds, nanos=nanos)
    if abs(seconds) <= 315_576_000_000 and abs(nanos) < 10**9 and seconds * nanos >= 0:
        total = seconds * 10**9 + nanos
        micros = duration_at(message, "run.wait") // timedelta(microseconds=1)
        # To the microsecond, and never nearer to nothing.
        assert 0 <= abs(micros) * 1000 - abs(total) < 1000
        assert micros * total >= 0
    else:
        with pytest.raises(InvalidInput, match=r"^run\.wait: "):
            duration_at(message, "run.wait")


@pytest.mark.parametrize("seconds", [_YEAR_1, _YEAR_10000 - 1])
def test_the_calendar_has_its_first_and_its_last_second(seconds: int) -> None:
    message = Timestamp(seconds=seconds, nanos=999_999_000)

    assert timestamp_message(instant_at(message, "at")) == message
    beyond = seconds - 1 if seconds < 0 else seconds + 1
    with pytest.raises(InvalidInput, match="give a year from 1 to 9999"):
        instant_at(Timestamp(seconds=beyond), "at")


@pytest.mark.parametrize("sign", [1, -1])
def test_the_longest_wait_is_ten_thousand_years(sign: int) -> None:
    longest = Duration(seconds=sign * 315_576_000_000, nanos=sign * 999_999_999)

    assert abs(duration_at(longest, "wait")) == timedelta(seconds=315_576_000_001)
    with pytest.raises(InvalidInput, match="give at most 315576000000"):
        duration_at(Duration(seconds=sign * 315_576_000_001), "wait")
