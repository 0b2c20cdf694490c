"""Errors: fields first, a sentence from them, and pickling that works."""

from __future__ import annotations

import pickle

import pytest

from opdispatch.errors import (
    CorruptRecord,
    InvalidInput,
    NotFound,
    OpdispatchError,
    Problem,
    RefusedTransition,
    Unavailable,
)

EXAMPLES = [
    (
        InvalidInput([Problem(place="$.a", found="it is bad", remedy="mend it"), Problem(place="", found="two")]),
        "$.a: it is bad; mend it\ntwo",
    ),
    (NotFound("run", "r-17"), "run 'r-17' was not found"),
    (
        RefusedTransition("run r-17", "completed", "pause"),
        "cannot pause run r-17: it is completed, and no transition leads on from there",
    ),
    (Unavailable("store", "no answer"), "store is not available: no answer; try again later"),
    (
        CorruptRecord("run r-17", "version 9"),
        "run r-17 cannot be read: version 9; use a version that knows it, or restore it",
    ),
]
IDS = [type(error).__name__ for error, _ in EXAMPLES]


@pytest.mark.parametrize(("error", "text"), EXAMPLES, ids=IDS)
def test_an_error_is_a_sentence_made_from_its_fields(error: OpdispatchError, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize(("error", "text"), EXAMPLES, ids=IDS)
def test_an_error_survives_pickling(error: OpdispatchError, text: str) -> None:
    back = pickle.loads(pickle.dumps(error))

    assert (type(back), str(back), back.__dict__) == (type(error), text, error.__dict__)


@pytest.mark.parametrize(("error", "text"), EXAMPLES, ids=IDS)
def test_an_error_can_be_made_again_from_its_arguments(error: OpdispatchError, text: str) -> None:
    again = type(error)(*error.args)

    assert (str(again), again.__dict__) == (text, error.__dict__)


def test_problems_that_come_one_by_one_are_kept() -> None:
    error = InvalidInput(Problem(place="$.a", found=found) for found in ("one", "two"))

    assert str(InvalidInput(*error.args)) == str(error) == "$.a: one\n$.a: two"


def test_the_reasons_are_codes_for_programs_and_never_change() -> None:
    errors: list[type[OpdispatchError]] = [OpdispatchError, *(type(error) for error, _ in EXAMPLES)]

    assert {error.__name__: error.reason for error in errors} == {
        "OpdispatchError": "INTERNAL",
        "InvalidInput": "INVALID_INPUT",
        "NotFound": "NOT_FOUND",
        "RefusedTransition": "REFUSED_TRANSITION",
        "Unavailable": "UNAVAILABLE",
        "CorruptRecord": "CORRUPT_RECORD",
    }


def test_what_to_do_about_an_error_can_be_told_apart_from_the_usual() -> None:
    again = [type(error)(*error.args) for error in (Unavailable("a", "b", "wait"), CorruptRecord("a", "b", "mend it"))]

    assert [str(error) for error in again] == ["a is not available: b; wait", "a cannot be read: b; mend it"]


def test_every_error_has_a_reason_of_its_own() -> None:
    reasons = {error.reason for error, _ in EXAMPLES} | {OpdispatchError.reason}

    assert len(reasons) == len(EXAMPLES) + 1


def test_only_what_is_not_available_is_worth_trying_again() -> None:
    assert [type(error) for error, _ in EXAMPLES if error.retryable] == [Unavailable]


def test_a_single_problem_is_told_with_its_place() -> None:
    assert InvalidInput.at("$.a", "it is bad").problems == (Problem(place="$.a", found="it is bad"),)
