"""Where the program begins: says what to install when its libraries are not there, instead of a traceback."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the program, or end with 2 when the extra ``cli`` is not installed."""
    try:
        from .main import main as program
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("opdispatch"):
            raise
        print(
            f"error: the program needs {error.name}, which is not installed; pip install 'opdispatch[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    program()
