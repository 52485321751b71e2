"""From a snapshot's name to the bytes of its pages: layers resolved, chunks read and unpacked.

Come here for what a fault in memory that is restored from a store waits for.
"""
