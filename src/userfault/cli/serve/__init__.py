"""The daemon's commands: start it, see whom it serves, end it."""
