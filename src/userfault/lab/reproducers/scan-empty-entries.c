// Are empty entries WRITTEN to a PAGEMAP_SCAN that asks for more than that?
// Statements: 225
// PAGEMAP_SCAN came with 6.7.  To a scan for WRITTEN alone they are, to any other one not on 6.17.
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
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC), pagemap = open("/proc/self/pagemap", O_RDONLY);
	struct uffdio_api api = { .api = UFFD_API, .features = 1 << 15 /* WP_ASYNC */ };
	struct uffdio_register range = { .range = { (unsigned long)memory, 4 * 4096 },
					 .mode = UFFDIO_REGISTER_MODE_WP };
	__u64 region[3] = { 0 }, pages[2];

	memory[0] = 'w'; // there is a table now, with three empty entries
	ioctl(fd, UFFDIO_API, &api);
	ioctl(fd, UFFDIO_REGISTER, &range);
	for (int n = 0; n < 2; n++) {
		struct scan scan = { .size = sizeof(scan), .start = (unsigned long)memory + 4096,
				     .end = (unsigned long)memory + 4 * 4096, .vec_len = 1,
				     .vec = (unsigned long)region, .mask = 2 /* WRITTEN */,
				     .returned = n ? 2 | 8 /* PRESENT */ : 2 };
		memset(region, 0, sizeof(region));
		if (ioctl(pagemap, PAGEMAP_SCAN, &scan) < 0) {
			printf("PAGEMAP_SCAN: %s\n", strerrorname_np(errno));
			return 0;
		}
		pages[n] = (region[1] - region[0]) / 4096;
	}
	printf("of 3 empty entries WRITTEN: %llu to a scan for that alone, %llu to another\n",
	       (unsigned long long)pages[0], (unsigned long long)pages[1]);
}
