"""Keep every version."""
