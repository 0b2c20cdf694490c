"""The surfaces, by name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .engine import Surface
from .surface_answers import Answers
from .surface_documents import Documents
from .surface_files import Inventories, RolloutFiles
from .surface_requests import Requests
from .surface_rows import Rows

SURFACES: Final[Mapping[str, type[Surface]]] = {
    kind.name: kind for kind in (Documents, Rows, Requests, Answers, RolloutFiles, Inventories)
}
_IN_MEMORY: Final = Path("/dev/shm")


@contextmanager
def surface_of(name: str) -> Iterator[Surface]:
    """A surface, with a directory of its own that is removed with it."""
    where = _IN_MEMORY if _IN_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=where) as scratch, SURFACES[name](Path(scratch)) as surface:
        # A reader of a pasted test needs no seeds, but one that mutates does.
        yield surface
