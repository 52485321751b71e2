"""Random programs: drawn, run, told, made small; and those that once showed a difference."""
