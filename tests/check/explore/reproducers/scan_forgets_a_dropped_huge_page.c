/*
 * PAGEMAP_SCAN does not tell of a write to a huge page whose entry was dropped.
 *
 * A shared mapping is tracked (WP_ASYNC), written, dropped with MADV_DONTNEED, and scanned.  The
 * bytes are in the file.  Prints, for pages of 4 KiB and of 2 MiB, whether the scan told of them.
 * Needs a free huge page; link with nothing.  Exit code 0: the huge page is forgotten.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WP_ASYNC (1 << 15) /* UFFD_FEATURE_WP_ASYNC (6.7) */
#define WRITTEN 2          /* PAGE_IS_WRITTEN */
#define TAKE 3             /* PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC */

struct region { uint64_t start, end, categories; };
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t inverted, mask, anyof, returned;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct scan_arg)

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(2);
	}
}

static int written(int pagemap, char *area, size_t size)
{
	struct region found[4];
	struct scan_arg arg = {
		.size = sizeof(arg), .flags = TAKE, .start = (uintptr_t)area,
		.end = (uintptr_t)area + size, .vec = (uintptr_t)found, .vec_len = 4,
		.mask = WRITTEN, .returned = WRITTEN,
	};
	int regions = ioctl(pagemap, PAGEMAP_SCAN, &arg);

	must(regions >= 0, "PAGEMAP_SCAN");
	return regions;
}

static int told(const char *name, unsigned flags, size_t size)
{
	struct uffdio_api api = { .api = UFFD_API, .features = WP_ASYNC };
	struct uffdio_register reg = { .range.len = size, .mode = UFFDIO_REGISTER_MODE_WP };
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	int file = memfd_create("tracked", flags);
	char bytes[4] = "";
	char *area;
	int seen;

	must(pagemap >= 0 && uffd >= 0 && file >= 0 && !ftruncate(file, size), "open");
	area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	must(area != MAP_FAILED, "mmap");
	memcpy(area, "old", 3);
	reg.range.start = (uintptr_t)area;
	must(!ioctl(uffd, UFFDIO_API, &api) && !ioctl(uffd, UFFDIO_REGISTER, &reg), "register");
	written(pagemap, area, size); /* it is protected from here on */
	must(!written(pagemap, area, size), "nothing was written");
	memcpy(area, "new", 3);
	must(!madvise(area, size, MADV_DONTNEED), "MADV_DONTNEED");
	seen = written(pagemap, area, size);
	must(pread(file, bytes, 3, 0) == 3, "pread");
	printf("%s: the file has %s, and the scan told of %d pages\n", name, bytes, seen);
	return seen;
}

int main(void)
{
	int small = told("4 KiB", 0, 4096);
	int huge = told("2 MiB", MFD_HUGETLB, 2 << 20);

	return !(small && !huge);
}
