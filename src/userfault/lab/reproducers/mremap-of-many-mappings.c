// mremap of two mappings at once, the second of which is registered.
// Statements: 147, 148
// Since 6.17 mremap moves several mappings; it stops with EFAULT at a registered one, and has moved
// those before it.  Before, EFAULT came at once.
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
	int rw = PROT_READ | PROT_WRITE, flags = MREMAP_MAYMOVE | MREMAP_FIXED;
	char *memory = mmap(NULL, 8192, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *place = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char state;
	const char *result;

	mprotect(memory + 4096, 4096, PROT_READ);
	enroll(uffd(0), memory + 4096, 4096, UFFDIO_REGISTER_MODE_MISSING);
	result = said(mremap(memory, 8192, 8192, flags, place) == MAP_FAILED ? -1 : 0);
	printf("mremap of two mappings, the second registered: %s, the first has %s\n", result,
	       mincore(memory, 4096, &state) ? "moved" : "not moved");
}
