"""Memory images at rest: small, layered, verified, in a folder or an object store.

An image is cut into pages of 4 KiB.  Pages that are zero, one repeated word or in the store already
cost no space; the others are compressed in chunks, each named by its digest.  A manifest maps the
pages of one snapshot to chunks.  `docs/format.md` gives every byte of both.
"""
