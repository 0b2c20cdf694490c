"""What was kept of each version is still read to what it stood for then."""

from __future__ import annotations

import json

import pytest

from .golden import ROOT, Golden, kept, main, readable
from .recording import RECORDINGS
from .surfaces import SURFACES, surface_of


@pytest.mark.parametrize("name", SURFACES)
def test_each_golden_file_reads_to_the_value_that_is_kept_beside_it(name: str) -> None:
    found: dict[str, object] = {}
    files: tuple[Golden, ...] = kept(name)
    with surface_of(name) as surface:
        for golden in files:
            found[golden.path.name] = json.loads(json.dumps(readable(surface.value(golden.given))))

    assert found == {golden.path.name: golden.value for golden in files}
    assert found


def test_a_version_that_is_kept_is_never_written_again(capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in ROOT.rglob("*")}

    assert main() == 0

    assert {path: path.stat().st_mtime_ns for path in ROOT.rglob("*")} == before
    assert capsys.readouterr().out.splitlines() == [f"{name} v{version} is kept" for name, version in RECORDINGS]


def test_every_surface_has_a_recording_of_its_newest_version() -> None:
    assert {name for name, _ in RECORDINGS} == set(SURFACES)
