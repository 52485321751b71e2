"""Address spaces, page tables, faults, and the calls that change what is mapped."""
