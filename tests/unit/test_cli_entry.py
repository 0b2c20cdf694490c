"""The program without its libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"


def test_without_its_extra_the_program_says_what_to_install() -> None:
    program = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from opdispatch_adapters.cli.entry import main; main()"

    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr == "error: the program needs click, which is not installed; pip install 'opdispatch[cli]'\n"
