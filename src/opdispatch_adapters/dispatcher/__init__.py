"""The driver: the only loop of opdispatch, and the only place that sleeps."""

from .driver import Dispatcher, Pass, carry_out_command
from .settings import Settings

__all__ = ["Dispatcher", "Pass", "Settings", "carry_out_command"]
