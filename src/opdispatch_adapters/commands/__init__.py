"""A task manager that runs local commands; see ``manager`` for what it promises and ``supervisor`` for how."""

from .manager import CommandTaskManager
from .settings import CommandSettings

__all__ = ["CommandSettings", "CommandTaskManager"]
