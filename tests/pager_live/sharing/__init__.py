"""One copy of a snapshot for several restores."""
