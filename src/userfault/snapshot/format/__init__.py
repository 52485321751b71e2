"""The bytes of what a store holds: chunks, manifests, pieces of the index.

Each module turns one of them into bytes and any bytes into one of them, or into FormatError.
`docs/format.md` gives every byte.
"""
