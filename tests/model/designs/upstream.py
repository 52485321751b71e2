"""Our table of a memory type beside upstream's `vm_uffd_ops` (7.1 to 7.3), member by member."""

from __future__ import annotations

# Of ours in `UffdOps`: upstream's member, which has the same name in 7.1, 7.2 and 7.3.
COUNTERPARTS: dict[str, tuple[str, str]] = {
    "can_userfault": (
        "`bool (*can_userfault)(struct vm_area_struct *vma, vm_flags_t vm_flags)`",
        "ours is given facts (file, shared, modes) and no VMA: a type has nothing to change",
    ),
    "get_folio_noalloc": (
        "`struct folio *(*get_folio_noalloc)(struct inode *inode, pgoff_t pgoff)`",
        "the same; an error pointer is `Refused`",
    ),
    "alloc_folio": (
        "`struct folio *(*alloc_folio)(struct vm_area_struct *vma, unsigned long addr)`",
        "ours is given the place (file, index, cgroup); NULL is None",
    ),
    "filemap_add": (
        "`int (*filemap_add)(struct folio *folio, struct vm_area_struct *vma, unsigned long addr)`",
        "the same, with the place",
    ),
    "filemap_remove": (
        "`void (*filemap_remove)(struct folio *folio, struct vm_area_struct *vma)`",
        "the same, with the file",
    ),
}

# Of ours outside of `UffdOps`: where the kernel has that, and so why `vm_uffd_ops` has not.
NOT_USERFAULTFD: dict[str, str] = {
    "private_folio": "a private page of an ordinary fault: do_anonymous_page(), hugetlb_no_page()",
    "undo_alloc": "restore_reserve_on_error(): hugetlb's fills are a loop of the core's own",
    "private": "a private mapping of a file holds anonymous pages: vma_is_anonymous() tests",
    "zero_page": "my_zero_pfn() in private mappings of base pages",
    "zeropage": "is_vm_hugetlb_page() in the answer of UFFDIO_REGISTER and of ZEROPAGE",
    "movable": "vma_is_anonymous() in the checks of UFFDIO_MOVE",
    "size_checked_at_entry": "i_size_read() in mfill_file_over_size() before an entry is installed",
    "fault_around": "`map_pages` of vm_operations_struct",
    "pool": "is_vm_hugetlb_page()",
    "occupied_first": "the order of steps in mfill_atomic_hugetlb()",
    "name": "of files: for messages",
    "fault_folio": "of files: `fault` of vm_operations_struct",
    "guest_folio": "of files: kvm_gmem_get_pfn()",
    "cached": "of files: filemap_get_entry()",
    "preallocate": "of files: `fallocate` of file_operations",
    "reserve": "of files: hugetlb_reserve_pages()",
    "unreserve": "of files: hugetlb_unreserve_pages()",
    "can_resize": "of files: `setattr` of inode_operations",
    "can_write": "of files: `write_iter` of file_operations",
    "can_private": "of files: `mmap` of file_operations",
    "mappable": "of files: `mmap` of file_operations",
    "mmap_grows": "of files: hugetlbfs_file_mmap()",
    "punch_drops_wp": "of files: truncate_inode_pages_range() in kvm_gmem_punch_hole()",
    "punch_takes_copies": "of files: hugetlb_vmdelete_list()",
    "small_hole_unmaps_all": "of files: shmem_fallocate()",
    "truncate_drops_markers": "of files: hugetlb_vmtruncate()",
    "touchable": "of files: kvm_gmem_fault_user_mapping() asks for INIT_SHARED",
    "segment": "of files: shm_file_operations",
    "accounts_blocks": "of files: shmem_recalc_inode()",
}

# Of the model alone: how a type is seen by the designs that are compared.
OF_THE_MODEL: dict[str, str] = {
    "uffd": "`uffd_ops` of vm_operations_struct: the pointer to what is in the table above",
    "says": "what the type says in another design",
    "runs": "operations that the type runs itself, in a design that lets it",
    "ioctls": "a mask of ioctls, in a design that has the type say it",
    "unchecked": "its hooks are called as Linux calls them",
}
