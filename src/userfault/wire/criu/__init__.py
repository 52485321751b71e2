"""What CRIU speaks: a file a protocol."""
