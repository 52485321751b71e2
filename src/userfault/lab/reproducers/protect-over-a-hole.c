// UFFDIO_WRITEPROTECT over a hole between two mappings.
// Statements: 104
// 6.1 takes one mapping at a time: ENOENT, and nothing is protected; 6.12 and later skip the hole.
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

static int uffd(unsigned long features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	return fd >= 0 && ioctl(fd, UFFDIO_API, &api) ? -1 : fd;
}

static int enroll(int fd, void *start, unsigned long length, unsigned long mode)
{
	struct uffdio_register range = { { (unsigned long)start, length }, mode, 0 };

	return ioctl(fd, UFFDIO_REGISTER, &range);
}

static const char *said(int result)
{
	return result < 0 ? strerrorname_np(errno) : "success";
}

int main(void)
{
	int fd = uffd(0);
	char *memory = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_writeprotect range = { { (unsigned long)memory, 3 * 4096 },
					     UFFDIO_WRITEPROTECT_MODE_WP };

	memset(memory, 'p', 3 * 4096);
	munmap(memory + 4096, 4096);
	enroll(fd, memory, 3 * 4096, UFFDIO_REGISTER_MODE_WP);
	printf("WRITEPROTECT over a hole: %s\n", said(ioctl(fd, UFFDIO_WRITEPROTECT, &range)));
}
