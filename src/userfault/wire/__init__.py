"""Protocols of other people's clients: bytes in, meaning out, no I/O.

Whatever comes is checked here before anybody acts on it, and refused with the reason.
"""
