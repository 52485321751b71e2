// What does PAGEMAP_SCAN know: guard regions (6.15), pages that were accessed (7.3)?
// Statements: 143, 144, 145, 181, 183, 184, 221, 226
// A category that the kernel does not know is refused with EINVAL.
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

static const char *knows(char *memory, __u64 category)
{
	struct scan scan = { .size = sizeof(scan), .start = (unsigned long)memory,
			     .end = (unsigned long)memory + 4096, .mask = category,
			     .returned = category };
	int found = ioctl(open("/proc/self/pagemap", O_RDONLY), PAGEMAP_SCAN, &scan);

	return found < 0 ? strerrorname_np(errno) : "known";
}

int main(void)
{
	char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	printf("categories of PAGEMAP_SCAN: WRITTEN %s,", knows(memory, 2));
	printf(" GUARD %s,", knows(memory, 0x100));
	printf(" ACCESSED %s\n", knows(memory, 0x200));
}
