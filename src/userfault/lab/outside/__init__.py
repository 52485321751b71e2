"""A memory type from outside the kernel's core: a module with a vm_uffd_ops of its own (7.1).

`userfault_outside.c` is the module, `table.py` the same type on the model; `root.py` gets the
headers and the compiler of a kernel's suite, `build.py` builds the module with them.

Licence: what calls functions that the kernel exports to GPL modules alone has to be GPL itself.
`userfault_outside.c` is under GPL-2.0-only, as its first line says; it is a program of its own,
which nothing of the package is linked with.  All else is under the licence of the project.
"""

FILE_SYSTEM = "userfault_outside"  # the name of the module, and of the type that mount(2) takes
