"""Faults: which become messages, what the messages say, who waits and who is woken."""
