// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * A memory type from outside the kernel's core: a file system whose files are memory, with a page
 * cache of its own and a vm_uffd_ops of its own (Linux 7.1 and newer).
 *
 * Its files have no names: open(2) with O_TMPFILE makes one.  They are as long as ftruncate(2)
 * says, hold nothing at first, and can be mapped, shared and private.  Everything is done with
 * what modules may use, but for handle_userfault(), see find_handler().
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/types.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/kprobes.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/uio.h>
#include <linux/userfaultfd_k.h>

#define OUTSIDE_MAGIC 0x75666f74

/* --- What the core does not give to modules ---------------------------------------------------- */

static vm_fault_t (*raise_userfault)(struct vm_fault *vmf, unsigned long reason);

/*
 * handle_userfault() is not exported; a kprobe that is never armed tells where it is.
 *
 * Where the processor lets indirect calls go to marked places only (IBT), the kernel has taken the
 * mark of this function away, since it takes its address nowhere.
 */
static int find_handler(void)
{
	struct kprobe probe = { .symbol_name = "handle_userfault", .flags = KPROBE_FLAG_DISABLED };
	int failed;

	if (IS_ENABLED(CONFIG_X86) && cpu_feature_enabled(X86_FEATURE_IBT)) {
		pr_err("handle_userfault() is sealed on a processor with IBT; ibt=off lifts it\n");
		return -EOPNOTSUPP;
	}
	failed = register_kprobe(&probe);
	if (failed) {
		pr_err("no kprobe tells where handle_userfault() is: %d\n", failed);
		return failed;
	}
	raise_userfault = (void *)probe.addr;
	unregister_kprobe(&probe);
	return 0;
}

/* --- Pages ------------------------------------------------------------------------------------- */

static bool beyond_end(struct inode *inode, pgoff_t index)
{
	return index >= DIV_ROUND_UP(i_size_read(inode), PAGE_SIZE);
}

static void let_go(struct folio *folio)
{
	folio_unlock(folio);
	folio_put(folio);
}

/* A new page of zeros in the cache, locked and referenced; -EEXIST where somebody was faster. */
static struct folio *create(struct address_space *mapping, pgoff_t index)
{
	struct folio *folio = filemap_alloc_folio(mapping_gfp_mask(mapping), 0, NULL);
	int failed;

	if (!folio)
		return ERR_PTR(-ENOMEM);
	folio_zero_segment(folio, 0, PAGE_SIZE);
	folio_mark_uptodate(folio);
	failed = filemap_add_folio(mapping, folio, index, mapping_gfp_mask(mapping));
	if (failed) {
		folio_put(folio);
		return ERR_PTR(failed);
	}
	folio_mark_dirty(folio); /* there is no copy of it anywhere: it is not to be dropped */
	return folio;
}

static struct folio *find_or_create(struct address_space *mapping, pgoff_t index)
{
	struct folio *folio;

	do {
		folio = filemap_lock_folio(mapping, index);
		if (IS_ERR(folio))
			folio = create(mapping, index);
	} while (folio == ERR_PTR(-EEXIST));
	return folio;
}

/* --- The table for userfaultfd ----------------------------------------------------------------- */

static bool outside_can_userfault(struct vm_area_struct *vma, vm_flags_t vm_flags)
{
	return true;
}

static struct folio *outside_get_folio_noalloc(struct inode *inode, pgoff_t pgoff)
{
	struct folio *folio = filemap_lock_folio(inode->i_mapping, pgoff);

	if (IS_ERR(folio))
		return ERR_PTR(-EFAULT);
	if (beyond_end(inode, pgoff)) {
		let_go(folio);
		return ERR_PTR(-EFAULT);
	}
	return folio;
}

/* The cgroup is charged when the page enters the cache: what would charge it here is not exported. */
static struct folio *outside_alloc_folio(struct vm_area_struct *vma, unsigned long addr)
{
	struct inode *inode = file_inode(vma->vm_file);

	if (beyond_end(inode, linear_page_index(vma, addr)))
		return NULL;
	return vma_alloc_folio(mapping_gfp_mask(inode->i_mapping), 0, vma, addr);
}

static int outside_filemap_add(struct folio *folio, struct vm_area_struct *vma, unsigned long addr)
{
	struct address_space *mapping = vma->vm_file->f_mapping;
	/* Whose memory it is pays, as for shmem, and not whoever calls UFFDIO_COPY. */
	struct mem_cgroup *owner = get_mem_cgroup_from_mm(vma->vm_mm);
	struct mem_cgroup *before = set_active_memcg(owner);
	int failed = filemap_add_folio(mapping, folio, linear_page_index(vma, addr),
				       mapping_gfp_mask(mapping));

	set_active_memcg(before);
	mem_cgroup_put(owner);
	if (!failed)
		folio_mark_dirty(folio);
	return failed;
}

/* filemap_remove_folio() is the core's alone; this one takes a page of a regular file out too. */
static void outside_filemap_remove(struct folio *folio, struct vm_area_struct *vma)
{
	generic_error_remove_folio(vma->vm_file->f_mapping, folio);
	folio_unlock(folio);
}

static const struct vm_uffd_ops outside_uffd_ops = {
	.can_userfault = outside_can_userfault,
	.get_folio_noalloc = outside_get_folio_noalloc,
	.alloc_folio = outside_alloc_folio,
	.filemap_add = outside_filemap_add,
	.filemap_remove = outside_filemap_remove,
};

/* --- Mappings ---------------------------------------------------------------------------------- */

/* Called without a lock of ours; what handle_userfault() answers goes back as it is. */
static vm_fault_t outside_fault(struct vm_fault *vmf)
{
	struct vm_area_struct *vma = vmf->vma;
	struct inode *inode = file_inode(vma->vm_file);
	struct folio *folio;

	if (beyond_end(inode, vmf->pgoff))
		return VM_FAULT_SIGBUS;
	folio = filemap_lock_folio(inode->i_mapping, vmf->pgoff);
	if (IS_ERR(folio)) {
		if (userfaultfd_missing(vma))
			return raise_userfault(vmf, VM_UFFD_MISSING);
		folio = find_or_create(inode->i_mapping, vmf->pgoff);
	} else if (userfaultfd_minor(vma)) {
		let_go(folio);
		return raise_userfault(vmf, VM_UFFD_MINOR);
	}
	if (IS_ERR(folio))
		return vmf_error(PTR_ERR(folio));
	if (beyond_end(inode, vmf->pgoff)) { /* truncated before the lock was ours */
		generic_error_remove_folio(inode->i_mapping, folio);
		let_go(folio);
		return VM_FAULT_SIGBUS;
	}
	vmf->page = folio_file_page(folio, vmf->pgoff);
	return VM_FAULT_LOCKED;
}

static const struct vm_operations_struct outside_vm_ops = {
	.fault = outside_fault,
	.map_pages = filemap_map_pages,
	.uffd_ops = &outside_uffd_ops,
};

static int outside_mmap_prepare(struct vm_area_desc *desc)
{
	desc->vm_ops = &outside_vm_ops;
	return 0;
}

/* --- Files ------------------------------------------------------------------------------------- */

/* A hole reads as zeros and stays one: generic_file_read_iter() would make a page there. */
static ssize_t outside_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	ssize_t done = 0;

	while (iov_iter_count(to)) {
		loff_t left = i_size_read(inode) - iocb->ki_pos;
		size_t at = offset_in_page(iocb->ki_pos);
		struct folio *folio;
		size_t wanted, moved;

		if (left <= 0)
			break;
		wanted = min3((size_t)left, PAGE_SIZE - at, iov_iter_count(to));
		folio = filemap_lock_folio(inode->i_mapping, iocb->ki_pos >> PAGE_SHIFT);
		if (IS_ERR(folio)) {
			moved = iov_iter_zero(wanted, to);
		} else {
			/* The copy may fault, on this very page too: only the reference is kept. */
			folio_unlock(folio);
			moved = copy_folio_to_iter(folio, at, wanted, to);
			folio_put(folio);
		}
		iocb->ki_pos += moved;
		done += moved;
		if (moved < wanted)
			return done ?: -EFAULT;
	}
	return done;
}

static int allocate(struct inode *inode, pgoff_t first, pgoff_t end)
{
	for (pgoff_t index = first; index < end; index++) {
		struct folio *folio = find_or_create(inode->i_mapping, index);

		if (IS_ERR(folio))
			return PTR_ERR(folio);
		let_go(folio);
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

static int preallocate(struct inode *inode, int mode, loff_t offset, loff_t end)
{
	loff_t size = i_size_read(inode);
	int failed;

	if (mode & FALLOC_FL_KEEP_SIZE)
		return allocate(inode, offset >> PAGE_SHIFT,
				DIV_ROUND_UP(min(end, size), PAGE_SIZE));
	failed = inode_newsize_ok(inode, end);
	if (!failed)
		failed = allocate(inode, offset >> PAGE_SHIFT, DIV_ROUND_UP(end, PAGE_SIZE));
	if (failed)
		truncate_pagecache(inode, size);
	else if (end > size)
		i_size_write(inode, end);
	return failed;
}

static long outside_fallocate(struct file *file, int mode, loff_t offset, loff_t length)
{
	struct inode *inode = file_inode(file);
	int failed = 0;

	if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE))
		return -EOPNOTSUPP;
	inode_lock(inode);
	if (mode & FALLOC_FL_PUNCH_HOLE)
		truncate_pagecache_range(inode, offset, offset + length - 1);
	else
		failed = preallocate(inode, mode, offset, offset + length);
	inode_unlock(inode);
	return failed;
}

static const struct file_operations outside_file_operations = {
	.owner = THIS_MODULE,
	.read_iter = outside_read_iter,
	.write_iter = generic_file_write_iter,
	.mmap_prepare = outside_mmap_prepare,
	.fallocate = outside_fallocate,
	.fsync = noop_fsync,
	.llseek = generic_file_llseek,
};

static int outside_setattr(struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr)
{
	struct inode *inode = d_inode(dentry);
	int failed = setattr_prepare(idmap, dentry, attr);

	if (failed)
		return failed;
	if (attr->ia_valid & ATTR_SIZE) {
		if (attr->ia_size < i_size_read(inode))
			truncate_setsize(inode, attr->ia_size);
		else
			i_size_write(inode, attr->ia_size);
	}
	setattr_copy(idmap, inode, attr);
	return 0;
}

static int outside_getattr(struct mnt_idmap *idmap, const struct path *path, struct kstat *stat,
			   u32 request_mask, unsigned int query_flags)
{
	struct inode *inode = d_inode(path->dentry);

	generic_fillattr(idmap, request_mask, inode, stat);
	stat->blocks = (u64)inode->i_mapping->nrpages << (PAGE_SHIFT - 9);
	return 0;
}

static const struct inode_operations outside_file_inode_operations = {
	.setattr = outside_setattr,
	.getattr = outside_getattr,
};

/* --- The file system --------------------------------------------------------------------------- */

static struct inode *outside_inode(struct super_block *sb, struct inode *directory, umode_t mode)
{
	struct inode *inode = new_inode(sb);

	if (!inode)
		return NULL;
	inode->i_ino = get_next_ino();
	inode_init_owner(&nop_mnt_idmap, inode, directory, mode);
	simple_inode_init_ts(inode);
	inode->i_mapping->a_ops = &ram_aops;
	mapping_set_gfp_mask(inode->i_mapping, GFP_HIGHUSER_MOVABLE);
	mapping_set_unevictable(inode->i_mapping);
	return inode;
}

static int outside_tmpfile(struct mnt_idmap *idmap, struct inode *directory, struct file *file,
			   umode_t mode)
{
	struct inode *inode = outside_inode(directory->i_sb, directory, mode);

	if (!inode)
		return -ENOMEM;
	inode->i_op = &outside_file_inode_operations;
	inode->i_fop = &outside_file_operations;
	d_tmpfile(file, inode);
	return finish_open_simple(file, 0);
}

static const struct inode_operations outside_directory_operations = {
	.lookup = simple_lookup,
	.tmpfile = outside_tmpfile,
};

static const struct super_operations outside_super_operations = {
	.statfs = simple_statfs,
};

static int outside_fill_super(struct super_block *sb, struct fs_context *fc)
{
	struct inode *root;

	sb->s_maxbytes = MAX_LFS_FILESIZE;
	sb->s_blocksize = PAGE_SIZE;
	sb->s_blocksize_bits = PAGE_SHIFT;
	sb->s_magic = OUTSIDE_MAGIC;
	sb->s_op = &outside_super_operations;
	sb->s_time_gran = 1;
	root = outside_inode(sb, NULL, S_IFDIR | 0755);
	if (!root)
		return -ENOMEM;
	root->i_op = &outside_directory_operations;
	root->i_fop = &simple_dir_operations;
	sb->s_root = d_make_root(root);
	return sb->s_root ? 0 : -ENOMEM;
}

static int outside_get_tree(struct fs_context *fc)
{
	return get_tree_nodev(fc, outside_fill_super);
}

static const struct fs_context_operations outside_context_operations = {
	.get_tree = outside_get_tree,
};

static int outside_init_fs_context(struct fs_context *fc)
{
	fc->ops = &outside_context_operations;
	return 0;
}

static struct file_system_type outside_type = {
	.owner = THIS_MODULE,
	.name = "userfault_outside",
	.init_fs_context = outside_init_fs_context,
	.kill_sb = kill_anon_super,
};

static int __init outside_init(void)
{
	int failed = find_handler();

	return failed ?: register_filesystem(&outside_type);
}

static void __exit outside_exit(void)
{
	unregister_filesystem(&outside_type);
}

module_init(outside_init);
module_exit(outside_exit);
MODULE_DESCRIPTION("A memory type from outside the core, with a vm_uffd_ops of its own");
MODULE_LICENSE("GPL");
