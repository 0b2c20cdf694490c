"""Identity: ids are derived, so a repeated call meets its own thing."""

from __future__ import annotations

import re

from opdispatch.identity import CommandId, idempotency_key_of, run_id_of, target_id_of
from tests.racks import rack_id

RUN = run_id_of(CommandId("c-1"))


def test_a_repeated_command_has_the_run_of_the_first() -> None:
    assert run_id_of(CommandId("c-1")) == RUN


def test_the_run_of_a_command_never_changes_between_releases() -> None:
    assert str(RUN) == "7ef4a996-5971-5cc1-b712-ff4adfabf01b"


def test_another_command_has_another_run() -> None:
    assert run_id_of(CommandId("c-2")) != RUN


def test_a_rack_has_one_target_in_a_run() -> None:
    assert target_id_of(RUN, rack_id(1)) == target_id_of(RUN, rack_id(1))


def test_a_rack_has_another_target_in_another_run() -> None:
    assert target_id_of(RUN, rack_id(1)) != target_id_of(run_id_of(CommandId("c-2")), rack_id(1))


def test_another_attempt_has_another_key() -> None:
    target = target_id_of(RUN, rack_id(1))

    assert idempotency_key_of(RUN, target, 1) != idempotency_key_of(RUN, target, 2)


def test_a_key_can_name_a_file() -> None:
    key = idempotency_key_of(RUN, target_id_of(RUN, rack_id(1)), 12)

    assert re.fullmatch(r"[0-9a-f.-]{76,}", key)
