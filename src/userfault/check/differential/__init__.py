"""Differential runs: random programs on the model and on the running kernel, step by step.

In the order of reading: `areas` (the memory that programs use), `program` (steps, and how they
are written as text), `verbs` (what each step calls), `draw` (random programs), `pair` (one
program on both kernels), `witness` (what is compared when all is at rest), `shrink` (a minimal
program), `coverage`, and `batch` (many programs in a process of its own).
"""
