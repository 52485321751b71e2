"""Pages into a guest_memfd whose VM is told by a bitmap which of them are there.

A bit that is set makes a vCPU that touches the page ask for it.  So the bytes come first, and then
the bit goes, in one step beside whatever the kernel and the VMM do to other bits.  The bitmap is
the truth: after a hole was punched the VMM sets bits again, and such pages are zeros.

pwrite(2) into a guest_memfd that has no direct map needs a kernel that no release is; it never
writes over what is there (EEXIST).  Where the kernel has no such write the bytes go through a
mapping.
"""

from __future__ import annotations

import errno
import mmap
import os

from userfault.linux.shared_bits import SharedBits
from userfault.serve.delivering import Bytes

_PAGE = 4096
_FETCHED, _DELIVERED = 2, 1  # of a page: its bytes were written; and its bit was cleared, too
_NO_WRITE = (errno.ENODEV, errno.ESPIPE, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF)


class IntoGuest:
    """`guest`, `bitmap`, `states`: descriptors, which stay the caller's; of `pages` pages.

    Raises OSError.
    """

    def __init__(self, guest: int, bitmap: int, states: int, pages: int) -> None:
        self._guest = guest
        self._length = pages * _PAGE
        self.bits = SharedBits(bitmap, pages)
        self._states = mmap.mmap(states, pages)
        self._mapped: mmap.mmap | None = None  # where it cannot be written to

    def there(self, offset: int, length: int) -> bool:
        """Whether all of it is: what was delivered before and lacks since is zeros."""
        for page in range(offset // _PAGE, (offset + length) // _PAGE):
            if self.bits[page]:
                if self._states[page] != _DELIVERED:
                    return False
                self._fill(page, bytes(_PAGE))
        return True

    def put(self, offset: int, data: Bytes) -> None:
        """What is there stays as it is."""
        view = memoryview(data)
        first = offset // _PAGE
        for page in range(first, first + len(view) // _PAGE):
            if self.bits[page]:
                zeros = self._states[page] == _DELIVERED
                at = (page - first) * _PAGE
                self._fill(page, bytes(_PAGE) if zeros else view[at : at + _PAGE])

    def dropped(self, offset: int, length: int) -> None:
        """The guest has given it back: it reads zero from now on."""
        for page in range(-(-offset // _PAGE), (offset + length) // _PAGE):
            self._states[page] = _DELIVERED

    def close(self) -> None:
        """Unmap."""
        self.bits.close()
        self._states.close()
        if self._mapped is not None:
            self._mapped.close()

    def _fill(self, page: int, data: Bytes) -> None:
        self._write(page * _PAGE, data)
        if self._states[page] != _DELIVERED:
            self._states[page] = _FETCHED
        self.bits.clear(page)
        self._states[page] = _DELIVERED

    def _write(self, offset: int, data: Bytes) -> None:
        if self._mapped is None:
            try:
                os.pwrite(self._guest, data, offset)
                return
            except FileExistsError:  # it was put there before, and its bit is yet to go
                return
            except OSError as error:
                if error.errno not in _NO_WRITE:
                    raise
            self._mapped = mmap.mmap(self._guest, self._length)
        self._mapped[offset : offset + len(data)] = bytes(data)
