"""The explorer: that it sees everything, that it says what it has not seen, that it finds bugs."""
