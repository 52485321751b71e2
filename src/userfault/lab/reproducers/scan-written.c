// PAGEMAP_SCAN for WRITTEN pages in a mapping that is not registered for WP.
// Statements: 146
// PAGEMAP_SCAN came with 6.7.  Up to 7.2 it reports every page there; since 7.3 it reports none.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

// The argument of PAGEMAP_SCAN (6.7), for headers that do not have it yet.
struct scan {
	__u64 size, flags, start, end, walk_end, vec, vec_len, max_pages;
	__u64 inverted, mask, anyof, returned;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct scan)

int main(void)
{
	char *memory = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	__u64 region[3] = { 0 };
	struct scan scan = { .size = sizeof(scan), .start = (unsigned long)memory,
			     .end = (unsigned long)memory + 4 * 4096, .vec = (unsigned long)region,
			     .vec_len = 1, .mask = 2 /* WRITTEN */, .returned = 2 };
	int found;

	memset(memory, 'w', 2 * 4096);
	found = ioctl(open("/proc/self/pagemap", O_RDONLY), PAGEMAP_SCAN, &scan);
	if (found < 0)
		printf("PAGEMAP_SCAN: %s\n", strerrorname_np(errno));
	else
		printf("WRITTEN pages outside of WP memory: %llu of 4, 2 of which were written\n",
		       (unsigned long long)(region[1] - region[0]) / 4096);
}
