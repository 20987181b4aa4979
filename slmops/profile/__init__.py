"""What a device can bear."""
