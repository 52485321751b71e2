"""The model kernel."""
