"""Where objects are kept: folders, services, a cache of these; who may write there, and when.

Come here for another kind of store, for credentials, and for what happens where a store is full,
slow, shared or somebody else's.  What is in an object is nothing that this wing knows.
"""
