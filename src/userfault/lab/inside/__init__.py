"""What runs inside a guest: the multiplexer and the first script."""
