"""Who is out there."""
