"""Move them, a few at a time."""
