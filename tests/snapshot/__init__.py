"""The snapshot store."""
