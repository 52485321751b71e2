"""The loop: faults and events in, fills out, on the right CPU."""
