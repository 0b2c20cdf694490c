"""What the adapters log, as lines for a person: on standard error, or among the events of a view."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LOGGERS: Final = ("opdispatch", "opdispatch_adapters")


class _Lines(logging.Handler):
    """Hands each record on as lines; where an error came from only when it is asked for."""

    def __init__(self, say: Callable[[str], None], is_verbose: Callable[[], bool]) -> None:
        super().__init__(logging.WARNING)
        self._say = say
        self._is_verbose = is_verbose

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and self._is_verbose():
            text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
        for line in text.splitlines():
            self._say(f"{record.levelname.lower()}: {line}")


@contextmanager
def logged_to(say: Callable[[str], None], is_verbose: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hand what is logged inside the block to ``say``, and to nobody else."""
    handler = _Lines(say, is_verbose)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers[:] = [handler]
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers
            logger.propagate = propagate
