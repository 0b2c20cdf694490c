"""Flow as a client sees it: its tasks and its inventory."""

from .inventory import FlowInventory
from .runs import RemoteRuns
from .settings import FlowSettings
from .tasks import FlowTasks

__all__ = ["FlowInventory", "FlowSettings", "FlowTasks", "RemoteRuns"]
