"""What they tell us."""
