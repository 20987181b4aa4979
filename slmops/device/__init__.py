"""What lives on the box."""
