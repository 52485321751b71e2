"""Real servers as stores."""
