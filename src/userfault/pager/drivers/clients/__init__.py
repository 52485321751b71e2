"""Whom the loop serves: a client, what it asks for, what it may, and how it ends."""
