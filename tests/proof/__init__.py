"""The whole proof at once: every search, longer than the suite has time for, and its figures in one file."""
