"""How memory becomes a snapshot: pages told apart, chunks stored, one manifest written.

Come here for what a pack stores and what it does not, for the order in which things become durable,
and for what is removed when a pack fails.
"""
