"""opdispatch: phased, gated rollouts over racks, decided by pure functions of immutable values."""
