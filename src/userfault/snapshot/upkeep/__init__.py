"""What is done with snapshots that lie in a store: compared, exported, verified, removed, squashed.

Each module here is one such thing; most are one command of the command line.
"""
