"""Make a model small enough."""
