"""Real processes and real faults, and a history of them that pure functions judge: ``python -m tests.histories``."""
