"""Wrong protocols, each of which the laws must notice: a law that never fails proves nothing."""

from __future__ import annotations

from typing import Final

from .controllers import CONTROLLERS
from .deciders import DECIDERS
from .mutant import Mutant
from .worlds import WORLDS

MUTANTS: Final[tuple[Mutant, ...]] = (*DECIDERS, *CONTROLLERS, *WORLDS)

__all__ = ["CONTROLLERS", "DECIDERS", "MUTANTS", "WORLDS", "Mutant"]
