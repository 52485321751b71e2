"""What a kernel is: the one protocol that the live kernel and the model kernel satisfy.

Everything above this room is written against it:

* `memtypes`: the memory types as a table (what each can do), and one memory as a caller asks for
  it;
* `modes`: features, registration modes, ioctl bits and fault flags as typed flags;
* `events`: what `read()` on a userfaultfd yields;
* `errors`: every exception this project raises, with cause and cure;
* `protocol`: kernels, processes, tasks, mappings and userfaultfds.

Nothing here touches a real or a modelled kernel.
"""
