"""What to install when a command needs more than is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opdispatch.errors import InvalidInput


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Tell which extra to install when an import in the block fails.  Raises InvalidInput."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("opdispatch"):
            raise
        raise InvalidInput.at(
            what, f"it needs {error.name}, which is not installed", f"pip install 'opdispatch[{extra}]'"
        ) from error
