"""What statements are written in."""
