"""Wrap it, name it, sign it."""
