"""What the program says when an extra is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cli_kit import REPOSITORY, environment

WITHOUT = """\
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"grpc", "grpc_health", "cryptography"} or name == "google.protobuf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from opdispatch_adapters.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("serve", "--flow", "127.0.0.1:5"), "serve"),
        (("flow-standin", "--inventory", "examples/inventory/leonardo"), "flow-standin"),
        (("--server", "127.0.0.1:5", "ls"), "--server"),
    ],
)
def test_a_command_without_its_extra_says_what_to_install(
    arguments: tuple[str, ...], what: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments],
        cwd=REPOSITORY,
        env=environment(OPDISPATCH_STORE=str(tmp_path / "none.db")),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 2
    assert f"error: {what}: it needs " in done.stderr
    assert "pip install 'opdispatch[flow]'" in done.stderr
    assert "Traceback" not in done.stderr
