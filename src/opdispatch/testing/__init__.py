"""Tools to prove that whatever is built around the core keeps its rules: for tests, in any test runner.

The laws are the rules as named predicates.  ``breaches(laws, subject)`` says which do not hold: ``RECORD_LAWS`` of a
``Record``; ``STEP_LAWS``, ``DECISION_LAWS`` and ``COMMAND_LAWS`` of a ``Transition``; ``TASK_LAWS`` of a transition
and the tasks that exist (``WithTasks``).  Standard library only, as the rest of the core.
"""

from __future__ import annotations

from .commands import COMMAND_LAWS
from .decisions import DECISION_LAWS, is_tripped, slots_in_use
from .law import Breach, Broken, Law, Transition, breaches
from .records import RECORD_LAWS
from .tasks import TASK_LAWS, KnownTask, WithTasks, orphans
from .transitions import STEP_LAWS

TRANSITION_LAWS = (*STEP_LAWS, *DECISION_LAWS, *COMMAND_LAWS)
"""Every law of a transition."""

__all__ = [
    "COMMAND_LAWS",
    "DECISION_LAWS",
    "RECORD_LAWS",
    "STEP_LAWS",
    "TASK_LAWS",
    "TRANSITION_LAWS",
    "Breach",
    "Broken",
    "KnownTask",
    "Law",
    "Transition",
    "WithTasks",
    "breaches",
    "is_tripped",
    "orphans",
    "slots_in_use",
]
