"""A task manager that runs local commands; see ``manager`` for what it promises and ``supervisor`` for how.

For Linux: it reads ``/proc`` and uses pidfds.  The work directory belongs on a local file system with hard links,
and the package in a directory, not in an archive.  Two things lie outside: a service manager that ends every process
of a service ends supervisors too (for systemd, set ``KillMode=process``), and in a container the tasks
end with it, whose first process should reap what it inherits.
"""

from .manager import CommandTaskManager
from .settings import CommandSettings

__all__ = ["CommandSettings", "CommandTaskManager"]
