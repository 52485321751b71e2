"""CRIU itself as a client of a daemon."""
