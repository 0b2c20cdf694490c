"""The adapters of opdispatch: each package carries the core's decisions out against one real thing."""
