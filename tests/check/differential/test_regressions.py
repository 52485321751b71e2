"""Divergences that random programs found between the model and Linux 6.18, fixed in the model."""

from __future__ import annotations

import pytest

from helpers.skips import absent
from userfault.check.differential.batch import Runner
from userfault.check.differential.found import kernels
from userfault.check.differential.pool import Pool
from userfault.check.differential.program import from_text
from userfault.kernel.errors import Unavailable

_U0 = "0 uffd u0; 0 api u0 0"
_ASYNC = "0 uffd u0; 0 api u0 0x8000"  # WP_ASYNC
FIXED = {
    "an ioctl on no descriptor leaves the argument as it was": "0 wake u0 anon+0 1p; 0 close u0",
    "a mapping of a file joins another one, though both have guards": (
        f"{_U0}; 0 map shm; 0 register u0 shm+0 2p 1; 0 unregister u0 shm+0 1p;"
        " 0 madvise shm+0 2p 102; 0 register u0 shm+0 1p 1"
    ),
    "a child gets the pages of a mapping that has had guards": (
        "0 map shanon; 0 store shanon+0; 0 madvise shanon+1 1p 102; 0 munmap shanon+1 1p; 0 fork"
    ),
    "PAGEMAP_SCAN tells where it ended after an error, too": (
        "0 map anon; 0 scan anon+0 8p 2 0 0; 0 scan anon+0 8p 4 0 0"
    ),
    "a read of advised memory maps the huge zero page": (
        "0 map thp; 0 load part+1; 0 scan thp+0 3p 0 0 0"
    ),
    "under MISSING no huge page comes, and every touch is a message": (
        f"{_U0}; 0 map thp; 0 register u0 thp+1 1p 1; 0 load part+1; 1 store part+2; 2 events u0 16"
    ),
    "the huge zero page moves": (
        f"{_U0}; 0 map thp; 0 load thp+0; 0 register u0 thp+1 1p 1; 0 move u0 thp+1 thp+0 1p 0;"
        " 0 scan thp+0 3p 0 0 0"
    ),
    "a part of the huge zero page is dropped": (
        "0 map thp; 0 load thp+1; 0 madvise part+3 1p 4; 0 scan thp+0 3p 0 0 0"
    ),
    "a child shares the huge zero page": "0 map thp; 0 load thp+1; 0 fork; c1.0 store part+2",
    "a huge page is protected whole, and stays huge": (
        f"{_U0}; 0 map thp; 0 store thp+0; 0 register u0 thp+0 1p 2; 0 writeprotect u0 thp+0 1p 1;"
        " 0 scan thp+0 3p 0 0 0; 1 store thp+0; 0 events u0 16; 0 writeprotect u0 thp+0 1p 0;"
        " 0 scan thp+0 3p 0 0 0"
    ),
    "a write under WP_ASYNC splits a huge page, and marks a small one": (
        "0 uffd u0; 0 api u0 0x8000; 0 map thp; 0 store thp+1; 0 register u0 thp+1 1p 2;"
        " 0 writeprotect u0 thp+1 1p 1; 0 store part+3; 0 scan thp+0 3p 0 2 0"
    ),
    "PAGEMAP_SCAN protects a huge page whole, or splits it": (
        "0 uffd u0; 0 api u0 0x8000; 0 map thp; 0 store thp+0; 0 store thp+1;"
        " 0 register u0 thp+0 2p 2; 0 scan thp+0 1p 1 2 0; 0 scan part+0 3p 1 2 0;"
        " 0 scan thp+0 3p 0 0 0"
    ),
    "mprotect leaves a huge page whole": (
        "0 map thp; 0 store thp+0; 0 mprotect thp+0 3p 1; 0 scan thp+0 3p 0 0 0"
    ),
    "fork shares a huge page, and a write splits it for one of the two": (
        "0 map thp; 0 store thp+1; 0 fork; 0 store part+0; 0 scan thp+0 3p 0 0 0; c1.0 load part+1;"
        " c1.0 scan thp+0 3p 0 0 0"
    ),
    "MOVE splits the page whose entry was split before": (
        f"{_U0}; 0 map thp; 0 store thp+1; 0 map dst; 0 register u0 dst+0 8p 1;"
        " 0 madvise part+3 1p 4; 0 move u0 dst+0 part+5 1p 0"
    ),
    "MOVE of a part asks the first page": (
        f"{_U0}; 0 map thp; 0 store thp+1; 0 map dst; 0 register u0 dst+0 8p 1; 0 fork;"
        " 0 store part+5; c1.0 exit; 0 store part+6; 0 move u0 dst+1 part+6 1p 0"
    ),
    "mremap moves a huge page whole": (
        "0 map thp; 0 store thp+0; 0 mremap thp+0 1p 1p 3 thp+2; 0 scan thp+0 3p 0 0 0"
    ),
    "MADV_COLLAPSE fills no hole of registered memory": (
        f"{_U0}; 0 map thp; 0 register u0 thp+0 1p 1; 0 zeropage u0 thp+0 1p 0;"
        " 0 madvise thp+0 1p 25; 0 madvise thp+0 1p 4; 0 copy u0 thp+0 src+0 1p 0;"
        " 0 madvise thp+0 1p 25"
    ),
    "MADV_COLLAPSE makes small pages huge": (
        "0 map thp; 0 madvise thp+0 3p 15; 0 store part+1; 0 madvise thp+0 3p 14;"
        " 0 madvise thp+1 1p 25; 0 scan thp+0 3p 0 0 0"
    ),
    "MADV_COLLAPSE asks for no page that may be written": (
        "0 map thp; 0 load thp+1; 0 madvise part+0 1p 24; 0 madvise thp+1 1p 25"
    ),
    "MADV_COLLAPSE of a range without a whole huge page is EINVAL": (
        "0 map thp; 0 store thp+1; 0 madvise part+1 1p 25; 0 madvise part+0 1p 25"
    ),
    "a huge page is occupied before the source of COPY is touched": (
        f"{_U0}; 0 map thp; 0 store thp+1; 0 register u0 thp+1 1p 1; 0 copy u0 part+1 anon+0 1p 0"
    ),
    "WIPEONFORK of a file is EINVAL before a hole is ENOMEM": (
        "0 map shm; 0 madvise shm+7 3p 18; 0 map priv; 0 madvise priv+7 3p 18"
    ),
    "KEEPONFORK of droppable memory is EINVAL": "0 map drop; 0 madvise drop+0 1p 19",
    "a child gets no page of droppable memory": "0 map drop; 0 store drop+0; 0 fork",
    "PAGEMAP_SCAN of nothing asks no mapping": "0 map shm; 0 scan shm+1 0p 2 0 0",
    "PAGEMAP_SCAN ends at the end of a page": "0 map alias; 0 scan alias+3 0p+512 0 4 0",
    "PAGEMAP_SCAN protects a part of a hole of huge pages whole": (
        "0 uffd u0; 0 api u0 0x8000; 0 map huge; 0 register u0 huge+0 1p 2; 0 scan huge+0 1p 1 0 2"
    ),
    "what PAGEMAP_SCAN gave a guard, no WRITEPROTECT takes away": (
        "0 uffd u0 0; 0 api u0 0x8000; 0 map shm; 0 register u0 shm+0 1p 2;"
        " 0 madvise shm+0 1p 102; 0 scan shm+0 1p 1 0 0; 0 writeprotect u0 shm+0 1p 0"
    ),
    "what PAGEMAP_SCAN gave poison, no WRITEPROTECT takes away": (
        "0 uffd u0 0; 0 api u0 0x8000; 0 map anon; 0 register u0 anon+0 1p 3;"
        " 0 poison u0 anon+0 1p 0; 0 scan anon+0 1p 1 0 0; 0 writeprotect u0 anon+0 1p 0"
    ),
    "what PAGEMAP_SCAN gave poison, no UNREGISTER takes away": (
        "0 uffd u0 0; 0 api u0 0x8000; 0 map alias; 0 register u0 alias+0 1p 2;"
        " 0 poison u0 alias+0 1p 0; 0 scan alias+0 1p 1 0 0; 0 unregister u0 alias+0 1p"
    ),
    "huge pages move to where programs begin, and the agent goes on": (
        "0 map hugepriv; 0 mremap hugepriv+0 3p 3p 3 null+0; 0 load anon+0"
    ),
    "a fault that waits has made its page table": (
        f"{_U0}; 0 map edge; 0 register u0 edge+0 1p 1; 2 mlock edge+0 1p; 0 scan edge+0 1p 0 0 0"
    ),
    "several registered mappings do not move, whatever else is wrong": (
        f"{_U0}; 0 map hugeanon; 0 register u0 hugeanon+0 1p 2; 0 mremap hugeanon+0 3p 3p 3 dst+0"
    ),
    "an address beyond the end is ENOMEM before it is not aligned": "2 replace top+0+2048 2p",
    "MADV_POPULATE says ENOMEM of what was unmapped meanwhile": (
        f"{_U0}; 0 map priv; 0 register u0 priv+0 2p 1; 0 madvise priv+1 1p 22;"
        " 0 mremap priv+0 2p 1p 0 edge+0; 0 wake u0 priv+0 2p"
    ),
    "memory that came with a fork joins nobody": (
        "0 map anon; 0 store anon+0; 0 fork; c1.1 replace anon+0 1p"
    ),
    "memory that came with a fork joins nothing that never was touched, either": (
        "0 map anon; 0 store anon+0; 0 mprotect anon+0 4p 1; 0 fork; c1.1 replace anon+4 4p;"
        " c1.1 mprotect anon+0 4p 3"
    ),
    "MOVE prepares its destination before it checks anything": (
        f"{_U0}; 0 map edge; 0 move u0 edge+0 edge+0 1p 0; 0 mremap edge+2 1p 1p 3 edge+0"
    ),
    "memory that MOVE has prepared is copied by a fork": (
        f"{_U0}; 0 replace priv+0 1p; 0 move u0 priv+0 disk+0 1p 0; 0 load priv+0; 0 fork"
    ),
    "fallocate of a hugetlb file may end within a page": "0 map huge; 2 allocate h 1p 2p+100",
    "what would cut a huge page stays cut at its start": (
        "0 map disk; 0 map huge; 0 mremap disk+0 1p 1p 3 huge+1"
    ),
    "a hint splits a mapping": (
        "0 map drop; 0 madvise drop+0 1p 16; 0 madvise drop+4 1p 2;"
        " 0 map anon; 0 madvise anon+0 1p 16"
    ),
    "mincore of huge pages sees what is mapped": (
        "0 map huge; 0 map hugealias; 0 store hugealias+0; 2 mincore huge+0 1p"
    ),
    "MOVE from droppable memory": (
        f"{_U0}; 0 map drop; 0 map anon; 0 register u0 anon+0 1p 1; 0 move u0 anon+0 drop+0 1p 0"
    ),
    "a duplicate onto itself unmaps its source": "0 map alias; 1 mremap alias+5 0p 1p 3 alias+5",
    "munlock of what is not locked joins nothing": (
        "0 map shm; 0 mlock shm+0 1p; 0 fork; c1.0 munlock shm+0 1p"
    ),
    "a moved mapping without its registration joins nobody": (
        f"{_U0}; 0 map alias; 0 register u0 alias+0 3p 1; 0 map shm; 0 mremap alias+2 1p 1p 3 shm+2"
    ),
    "locked memory that grows is faulted in": (
        "0 map shm; 0 mlock shm+0 2p; 0 mremap shm+0 1p 2p 1 dst+0"
    ),
    "a call that sleeps keeps its descriptor open": (
        f"{_U0}; 0 map dst; 0 register u0 dst+0 1p 1; 2 copy u0 dst+0 dst+0 1p 0; 0 close u0"
    ),
    "PAGEMAP_SCAN reports a part of an empty huge entry and leaves it": (
        "0 uffd u0; 0 api u0 0x8000; 0 map huge; 0 register u0 huge+0 1p 3; 0 load huge+0;"
        " 2 scan huge+0 1p 1 0 2"
    ),
    "memory that was never private is no longer charged when it is not writable": (
        f"{_U0}; 0 map anon; 0 mprotect anon+0 1p 0; 0 move u0 anon+1 anon+0 1p 0;"
        " 0 mprotect anon+0 2p 0"
    ),
    "a fill makes its page table before it fails": (
        f"{_U0}; 0 map hugepriv; 0 register u0 hugepriv+0 1p 2; 0 continue u0 hugepriv+0 1p 0;"
        " 0 scan hugepriv+0 1p 0 0 0"
    ),
    "a fork copies empty page tables": (
        "0 map anon; 0 store anon+0; 0 madvise anon+0 1p 4; 0 fork; c1.1 scan anon+0 1p 0 0 0"
    ),
    "a child that is told of keeps its registration where it is wiped": (
        "0 uffd u0 0; 0 api u0 2; 0 map dst; 0 register u0 dst+0 2p 1; 0 madvise dst+0 1p 18;"
        " 0 fork; 0 events u0 16"
    ),
    "small pages make the table that huge pages are in": (
        "0 map src; 0 map priv; 0 map huge; 0 mremap priv+0 1p 1p 3 huge+3; 0 scan huge+0 1p 0 0 0"
    ),
    "mincore of huge pages without a table asks the page cache": (
        "0 map hugealias; 0 allocate h 1p 1p; 1 mincore hugealias+1 0p+512"
    ),
    "truncating a hugetlb file to its own size drops markers": (
        f"{_U0}; 0 map huge; 0 register u0 huge+0 2p 2; 0 truncate h 1p;"
        " 0 writeprotect u0 huge+1 1p 1; 0 truncate h 1p"
    ),
    "MADV_DONTNEED frees page tables that it has emptied": (
        "0 replace huge+2 1p; 0 store huge+2; 0 madvise huge+1 2p 4; 2 scan huge+0 3p 0 0 0"
    ),
    "an unmapping that would cut a huge page tells of what lies before it": (
        "0 uffd u0 0; 0 api u0 64; 0 map huge; 0 register u0 huge+0 1p 4; 1 munmap huge+0 1p+512"
    ),
    "a hole leaves the marker of a huge page that is no longer registered for WP": (
        f"{_U0}; 0 map hugealias; 0 register u0 hugealias+0 2p 2; 0 load hugealias+1;"
        " 0 writeprotect u0 hugealias+0 2p 1; 0 register u0 hugealias+0 2p 4; 0 punch h 1p 1p"
    ),
    "PAGEMAP_SCAN reports a part of a huge marker": (
        "0 uffd u0 0; 0 api u0 0x8000; 0 map hugeanon; 0 register u0 hugeanon+1 1p 2; 0 "
        "writeprotect u0 hugeanon+1 1p 1; 0 scan hugeanon+0 2p 1 0 2"
    ),
    "mprotect that changes nothing joins nothing": (
        "0 uffd u0 0; 0 api u0 0; 0 map priv; 0 register u0 priv+0 1p 1; 0 fork; c1.1 "
        "mprotect priv+0 1p 3"
    ),
    "PAGEMAP_SCAN reports a part of a huge page that is protected already": (
        "0 uffd u0 0; 0 api u0 0x8000; 0 map huge; 0 register u0 huge+0 2p 2;"
        " 0 copy u0 huge+1 huge+0 1p 2; 0 scan huge+1 1p 1 0 2"
    ),
    "locked private memory that becomes writable gets its pages at once": (
        "0 map dst; 0 mprotect dst+0 1p 0; 0 mlock dst+0 1p; 0 mprotect dst+0 1p 2"
    ),
    "PAGEMAP_SCAN takes a part of a huge poison marker back": (
        "0 uffd u0 0; 0 api u0 0x8000; 0 map hugeanon; 0 register u0 hugeanon+0 1p 2;"
        " 0 poison u0 hugeanon+0 1p 0; 2 scan hugeanon+0 1p 1 0 1"
    ),
    "one mremap of many cuts its target out of the mapping that it moves": (
        "0 map disk; 0 store disk+0; 0 fork; 0 mremap disk+7 2p 2p 7 disk+1; 0 fork"
    ),
    "a moved mapping joins its neighbours, and not theirs": (
        "0 uffd u0 0; 0 api u0 0; 0 map dst; 0 register u0 dst+1 1p 2; 0 fork;"
        " c1.1 mremap dst+3 1p 1p 3 dst+2"
    ),
    "PAGEMAP_SCAN protects a guard": (
        "0 uffd u0 0; 0 api u0 0x8000; 0 map dst; 0 register u0 dst+0 1p 2; 0 madvise dst+0 "
        "1p 102; 0 scan dst+0 1p 1 0 0"
    ),
    "a write to a marked private huge page maps the file's page first": (
        "0 uffd u0 0; 0 api u0 0; 0 uffd u1 0; 0 api u1 0; 0 map hugepriv; 0 register u1 "
        "hugepriv+0 1p 2; 0 writeprotect u0 hugepriv+0 1p 1; 0 allocate h 0p 1p; 0 store "
        "hugepriv+0"
    ),
    "mlock leaves out what was unmapped meanwhile": (
        "0 uffd u0 0; 0 api u0 0; 0 map priv; 0 register u0 priv+0 2p 3; 2 mlock priv+0 1p; 0 "
        "munmap priv+0 1p; 0 writeprotect u0 priv+0 2p 0"
    ),
    "a cached huge page beyond the end of its file is mapped": (
        "0 map hugepriv; 0 truncate h 1p; 0 allocate h 0p 2p+100; 1 load hugepriv+2 1p"
    ),
    "each of several mappings that move is checked": (
        "0 map huge; 0 replace huge+0 1p; 2 mremap huge+0 2p 2p 3 dst+0"
    ),
    "private huge pages are not prepared before their message": (
        "0 uffd u0 0; 0 api u0 0; 0 map hugepriv; 0 register u0 hugepriv+0 1p 1; 0 map huge; "
        "0 store hugepriv+0; 0 store huge+0; 0 kload k hugepriv+0; 0 fork"
    ),
    "a small page that is written keeps the protection bit of another registration": (
        f"{_U0}; 0 map src; 0 map anon; 0 register u0 anon+0 1p 2; 0 copy u0 anon+0 src+0 1p 2;"
        " 0 register u0 anon+0 1p 1; 0 store anon+0"
    ),
    "and is protected again by WRITEPROTECT": (
        f"{_U0}; 0 map src; 0 map anon; 0 register u0 anon+0 1p 2; 0 copy u0 anon+0 src+0 1p 2;"
        " 0 register u0 anon+0 1p 1; 0 store anon+0; 0 register u0 anon+0 1p 3; 0 store anon+0;"
        " 0 writeprotect u0 anon+0 1p 1; 1 store anon+0; 0 events u0 16;"
        " 0 writeprotect u0 anon+0 1p 0"
    ),
    "mprotect takes away what a leftover protection let pass": (
        f"{_U0}; 0 map src; 0 map anon; 0 register u0 anon+0 1p 2; 0 copy u0 anon+0 src+0 1p 2;"
        " 0 register u0 anon+0 1p 1; 0 store anon+0; 0 register u0 anon+0 1p 3;"
        " 0 mprotect anon+0 1p 1; 0 mprotect anon+0 1p 3; 1 store anon+0; 0 events u0 16"
    ),
    "a copy of a page loses a leftover protection": (
        f"{_U0}; 0 map src; 0 map anon; 0 register u0 anon+0 1p 2; 0 copy u0 anon+0 src+0 1p 2;"
        " 0 register u0 anon+0 1p 1; 0 fork; 0 store anon+0; c1.0 store anon+0"
    ),
    "guest_memfd has no file position": "0 map gmem; 0 pread g 1p 10; 0 pwrite g 1p 10",
    "DONTUNMAP of a locked part: what stays is joined otherwise": (
        "0 uffd u0 0; 0 map anon; 0 mlock anon+5 1p; 0 mremap anon+5 1p 1p 5 dst+0; 0 close u0"
    ),
    "a locked mapping that moves and grows, with its REMAP event": (
        "0 uffd u0 0; 0 api u0 4; 0 map alias; 0 register u0 alias+0 1p 4; 0 mlock alias+0 2p;"
        " 0 mremap alias+0 1p 2p 1 dst+0"
    ),
    "mlock of a huge page that was replaced meanwhile": (
        f"{_U0}; 0 map huge; 0 register u0 huge+0 2p 1; 0 mlock huge+1 1p; 0 replace huge+1 1p;"
        " 0 wake u0 huge+0 2p"
    ),
    "a wp marker beyond the end, registered for MINOR, around a fault": (
        f"{_U0}; 0 map shm; 0 register u0 shm+0 7p 2; 0 writeprotect u0 shm+0 7p 1;"
        " 0 truncate m 1p; 0 register u0 shm+6 1p 4; 0 load shm+6"
    ),
    "a hint of DONTUNMAP charges what stays": (
        "0 map dst; 0 mremap dst+0 1p 1p 5 dst+1; 0 replace dst+0 1p"
    ),
    "closing a descriptor joins nothing else": (
        "0 uffd u0 0; 0 api u0 2; 0 map shm; 0 map hugealias; 0 register u0 hugealias+0 1p 4;"
        " 0 mlock shm+0 1p; 0 fork; 0 events u0 2; 0 close f0"
    ),
    "a write to a huge page with the protection of another registration never returns": (
        f"{_U0}; 0 map huge; 0 load huge+0; 0 register u0 huge+0 2p 2;"
        " 0 writeprotect u0 huge+0 1p 1; 0 register u0 huge+0 1p 4; 0 store huge+0"
    ),
    "MADV_GUARD_INSTALL over the wp marker of a file never returns": (
        f"{_U0}; 0 map shm; 0 register u0 shm+0 7p 2; 0 writeprotect u0 shm+5 1p 1;"
        " 0 madvise shm+1 3p 102; 0 madvise shm+1 7p 102"
    ),
    "unregistering joins nothing that was not registered": (
        f"{_U0}; 0 map anon; 0 register u0 anon+0 1p 1; 0 map dst; 0 mremap anon+0 1p 1p 3 dst+0;"
        " 0 unregister u0 dst+0 1p"
    ),
    "nor beside it": (
        f"{_U0}; 0 map dst; 0 store dst+0; 0 register u0 dst+0 6p 2; 0 mremap dst+4 1p 1p 3 dst+0;"
        " 0 mremap dst+5 1p 1p 3 dst+1; 0 unregister u0 dst+0 1p"
    ),
    "mprotect joins only what it changes": (
        f"{_U0}; 0 map anon; 0 register u0 anon+0 1p 1; 0 map dst; 0 mremap anon+0 1p 1p 3 dst+0;"
        " 0 mprotect dst+7 1p 1; 0 mprotect dst+0 8p 3"
    ),
    "mlock joins only what it changes": (
        f"{_U0}; 0 map anon; 0 register u0 anon+0 1p 1; 0 map dst; 0 mremap anon+0 1p 1p 3 dst+0;"
        " 0 mlock dst+7 1p; 0 mlock dst+7 1p; 0 munlock dst+0 8p"
    ),
    "a marker left over from WP protects a huge page": (
        f"{_U0}; 0 map huge; 0 register u0 huge+0 2p 2; 0 writeprotect u0 huge+0 1p 1;"
        " 0 register u0 huge+0 1p 4; 0 load huge+0"
    ),
    "what is left of protected poison stays protected where WP is registered": (
        f"{_ASYNC}; 0 map alias; 0 register u0 alias+0 2p 2; 0 poison u0 alias+0 2p 0;"
        " 0 scan alias+0 2p 1 0 0; 0 unregister u0 alias+1 1p; 0 madvise alias+0 2p 4;"
        " 0 truncate m 1p"
    ),
    "a guard that PAGEMAP_SCAN protected stays as it is": (
        f"{_ASYNC}; 0 map anon; 0 register u0 anon+0 2p 2; 0 madvise anon+0 2p 102;"
        " 0 scan anon+0 2p 1 0 0; 0 unregister u0 anon+1 1p; 0 madvise anon+0 2p 4"
    ),
    "a shared mapping that mremap doubles brings no page table": (
        "0 map src; 0 map shm; 0 mremap shm+0 0p 1p 3 thp+0; 0 scan thp+0 1p 0 0 0"
    ),
}


@pytest.mark.parametrize("name", FIXED)
def test_the_model_agrees_with_this_kernel(name: str, pool: Pool | None) -> None:
    if pool is None:
        absent("no huge pages can be had")
    try:
        runner = Runner(*kernels(), pool)
    except Unavailable as error:
        absent(str(error))
    found = runner.run(from_text(FIXED[name]))
    assert found is None, found.lines[-1]
