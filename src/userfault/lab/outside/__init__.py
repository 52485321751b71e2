"""A memory type from outside the kernel's core: a module with a vm_uffd_ops of its own (7.1).

`userfault_outside.c` is the module, `table.py` the same type on the model; `root.py` gets the
headers and the compiler of a kernel's suite, `build.py` builds the module with them.

Licence: what uses functions that the kernel exports to GPL modules alone has to be under the GPL
itself.  So `userfault_outside.c` may be taken under GPL-2.0-only or, as all else here, under
Apache-2.0; the module that is built of it is under the GPL.  Nothing of the package is linked with
it, and no code of the kernel is in it.
"""

FILE_SYSTEM = "userfault_outside"  # the name of the module, and of the type that mount(2) takes
