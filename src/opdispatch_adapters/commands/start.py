"""The script that starts a supervisor: ``python -I -S start.py``, with nothing but the standard library in reach.

The modules of this package that it needs are reached through a stand-in for the package, so that neither the
package's own ``__init__`` nor anything that it imports (settings, the core, attrs) is loaded once per task.
"""

import os
import sys
import types

_STAND_IN = "opdispatch_commands"

if __name__ == "__main__":
    package = types.ModuleType(_STAND_IN)
    package.__path__ = [os.path.dirname(os.path.abspath(__file__))]
    sys.modules[_STAND_IN] = package
    __package__ = _STAND_IN

    from .supervisor import main

    main()
