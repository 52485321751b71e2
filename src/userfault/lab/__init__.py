"""The lab: other real kernels, booted in QEMU, and what runs inside.

`suites.py`, `sources.py`, `apt.py`, `store.py`: kernels from Debian's packages.  `cpio.py`,
`modules.py`, `image.py`: what a guest boots from.  `machine.py`, `channels.py`, `guest.py`,
`host.py`: a guest, and the host of agents that it is for the checks.  `outside/`: a memory type in
a module of the guest's kernel, and how it is built.
"""
