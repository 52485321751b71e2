"""The contract of a memory type, rule by rule, under every schedule of a few tasks.

The rules are those that whoever writes a table has to keep (`model/memtypes/ops.py` says what each
hook must do).  The boundary names the hook that broke one; what no single hook shows, and what a
design does not look at, the model's own rules and the results of the tasks do.
"""
