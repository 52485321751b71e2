"""Posing as other people's clients, to test a handler with."""
