"""Dispatchers (``recorded_worker``) on a host whose clocks are wrong by SHIFT seconds, of the environment.

Each tells in its name what its host's clock said when it began.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime, timedelta, tzinfo

from . import recorded_worker


class _Alike(type):
    """Every instant counts as one of the class with the shifted clock."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, datetime)


def shift(seconds: float) -> None:
    """Every clock that the adapters can read goes wrong by so much; those of the drivers and of the record stay."""
    clock_gettime, now = time.clock_gettime, time.time

    class Shifted(datetime, metaclass=_Alike):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # an instant of the plain class
            return datetime.now(tz) + timedelta(seconds=seconds)

    time.clock_gettime = lambda clock: clock_gettime(clock) + seconds
    time.time = lambda: now() + seconds
    for name, module in list(sys.modules.items()):
        if name.startswith("opdispatch_adapters") and getattr(module, "datetime", None) is datetime:
            module.datetime = Shifted  # type: ignore[attr-defined]  # it was asked just now


def serve(store: str, record: str) -> None:
    shift(float(os.environ["SHIFT"]))
    recorded_worker.serve(store, record, actor=f"host at {time.time():.0f}")


if __name__ == "__main__":
    recorded_worker.main(*sys.argv[1:], serve=serve)
