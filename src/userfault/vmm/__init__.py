"""A small virtual machine of KVM: a client of the pager whose guest faults.

`machine` (slots of memory, CPUs, running and pausing them), `cpu` (one CPU in its thread),
`state` (what a machine is beside its memory, as bytes), `saving` and `restoring` (memory and state
in a store), `program` (what guests run), `layout` (where things are in guest memory), `stepped/`
(the same guest step by step, on the live kernel and on the model).
"""
