"""Every bad input of the table: its exit code, its message, no traceback, and nothing made or lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from .bad_inputs import TABLE, BadInput, call, contents
from .cli_kit import Site


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: str(bad.what).replace(" ", "-"))
def test_a_bad_input_is_refused_with_its_code_and_leaves_everything_as_it_was(tmp_path: Path, bad: BadInput) -> None:
    site = Site(tmp_path)
    bad.prepare(site)
    before = contents(site)

    done = call(site, bad)

    made = bad.makes or ("\0",)
    after = {name: found for name, found in contents(site).items() if name in before or not name.startswith(made)}
    said = done.stdout + done.stderr
    assert done.returncode == bad.code, done.stderr
    assert all(part in said for part in bad.says), said
    assert "Traceback" not in said
    assert "\x1b" not in said
    assert after == before
    assert not site.began(), "no command was executed"
