"""Fuzzing: every surface where bytes of others come in, by mutations of golden files and by raw bytes."""
