"""The kernel's ABI as data: numbers and struct layouts, nothing that runs.

One module for each header the project needs. The names are the kernel's own, so that a reader
can look them up; `tests/uapi` compiles a C program to compare every value and every offset with
real headers.

The process that serves page faults imports this room before it can answer anything, so the room
imports `struct` and nothing else.
"""
