"""A stand-in for a Flow service, for tests and for trying things out: its tasks, racks, errors and faults."""

from .faults import Fault, FaultKind, Faults, faults_in
from .server import Fates, StandIn
from .site import Part, Site, SiteRack, site_of
from .tasks import Fate, StandInTask, TaskModel

__all__ = [
    "Fate",
    "Fates",
    "Fault",
    "FaultKind",
    "Faults",
    "Part",
    "Site",
    "SiteRack",
    "StandIn",
    "StandInTask",
    "TaskModel",
    "faults_in",
    "site_of",
]
