"""The same guest step by step, written against the protocol that both kernels satisfy.

`script` (what is done, and the log of it), `host` (what it needs of a kernel), `live` (KVM on the
running kernel), `modelled` (the model, with `interpreter` in place of a CPU).
"""
