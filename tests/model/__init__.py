"""The state machine, explored: every state that a small run can come into, by the real functions of the core."""
