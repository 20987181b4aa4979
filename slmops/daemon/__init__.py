"""What answers on the box."""
