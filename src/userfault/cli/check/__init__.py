"""What a kernel does: in short (`probe`), and statement by statement (`check`)."""
