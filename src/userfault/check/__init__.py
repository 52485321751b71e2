"""Checks: what a kernel promises, as statements that run on any kernel.

`live/`: the running Linux behind the protocols of `kernel/calls.py`.  `words/`: what statements are
written in.  `statements/`: the statements.  `differential/`: random programs on a kernel and on its
model.  `explore/`: every schedule of a few tasks on the model.  Here: which statements
(`selection.py`), on which kernels (`kernels.py`), one by one (`run.py`).
"""
