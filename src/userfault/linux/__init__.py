"""The live kernel: the protocol of `userfault.kernel` on the Linux that runs this program.

System calls and ioctls only, no policy: `opening` (three ways to a userfaultfd), `uffd` (one
method an ioctl), `memory` (one creation call a memory type), `hugepool`, `guest_memfd`, `pagemap`,
`pidfd`, `probe`, and `process`, which ties them to the protocol.
"""
