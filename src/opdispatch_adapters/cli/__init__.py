"""The command line: reads files and options, calls the core through its ports, and tells people what happened."""
