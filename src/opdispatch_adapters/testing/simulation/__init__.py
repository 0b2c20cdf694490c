"""A simulated world around the real tick, played by seeds or by Hypothesis, and judged by the laws.

``play(seed, steps)`` is one schedule; ``World`` is the world itself, to be stepped by hand.
"""

from __future__ import annotations

from .healing import heal
from .ledger import Ledger
from .operators import Operators
from .schedules import RARE, Played, play
from .setup import EPOCH, SETTINGS, Choose, Setup, a_setup
from .world import World

__all__ = [
    "EPOCH",
    "RARE",
    "SETTINGS",
    "Choose",
    "Ledger",
    "Operators",
    "Played",
    "Setup",
    "World",
    "a_setup",
    "heal",
    "play",
]
