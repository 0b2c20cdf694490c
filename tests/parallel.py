"""Work that is shared among processes: each result comes as soon as it is there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

R = TypeVar("R")


def shared(work: Callable[..., R], pieces: Iterable[tuple[Any, ...]], workers: int | None = None) -> Iterator[R]:
    """The results of ``work(*piece)``, as they come; by as many processes as there are processors."""
    count = workers or os.cpu_count() or 1
    # Forked from a process without threads, each with what is loaded already.
    with ProcessPoolExecutor(count, mp_context=get_context("fork")) as pool:
        try:
            for done in as_completed([pool.submit(work, *piece) for piece in pieces]):
                yield done.result()
        except BaseException:
            # What nobody asks for any more is not waited for.
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def write_figures(path: str | None, figures: dict[str, object]) -> None:
    """Figures for whoever collects them, when a place is given."""
    if path is not None:
        Path(path).write_text(json.dumps(figures, indent=2) + "\n")
