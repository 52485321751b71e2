"""What a scenario is made of: come here to write one, or to give its tasks another call."""
