"""The kernel in Python: the part of memory management that userfaultfd lives in.

Deterministic: tasks are greenlets and a scheduler chooses who runs (`sched`).  Memory types are
tables (`memtypes`), versions are data (`profiles`), and `check` walks every invariant.  Two faces:
`programs.ModelCalls` runs system calls (`userfault.kernel.calls`), `kernel.ModelKernel` satisfies
the typed protocol (`userfault.kernel.protocol`).
"""
