"""Flow's operation-run calls, served over the core."""

from .access import ROLES, Access, Role, roles_from
from .cohort import Externals
from .failure import CallFailure
from .interceptor import AccessInterceptor
from .service import Caller, OperationRuns, RunSettings
from .transport import CALLS, SERVICE, add_operation_runs

__all__ = [
    "CALLS",
    "ROLES",
    "SERVICE",
    "Access",
    "AccessInterceptor",
    "CallFailure",
    "Caller",
    "Externals",
    "OperationRuns",
    "Role",
    "RunSettings",
    "add_operation_runs",
    "roles_from",
]
