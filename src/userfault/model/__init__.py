"""The kernel in Python: the part of memory management that userfaultfd lives in.

Deterministic: tasks are greenlets and a scheduler chooses who runs (`tasks`).  Memory types are
tables (`memtypes`), versions are data (`profiles`), and `invariants` walks every one of them.  Two
faces: `faces.calls.ModelCalls` runs system calls (`userfault.kernel.calls`), and
`faces.kernel.ModelKernel` satisfies the typed protocol (`userfault.kernel.protocol`).
"""
