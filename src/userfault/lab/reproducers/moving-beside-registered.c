// A page is moved by mremap to stand beside memory of the same userfaultfd, without EVENT_REMAP.
// Statements: 210
// Up to 7.2 the copy joins its neighbour before it loses its registration, and the neighbour loses
// its own with it: its missing pages are not reported any more.  Since 7.3 it does not join; Debian's
// 6.12.118 has the mend, too.
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

int main(void)
{
	int fd = uffd(0), result;
	char *memory = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_zeropage zero = { { (unsigned long)memory + 4096, 4096 }, 0, 0 };

	enroll(fd, memory, 3 * 4096, UFFDIO_REGISTER_MODE_MISSING);
	mremap(memory + 2 * 4096, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, memory);
	result = ioctl(fd, UFFDIO_ZEROPAGE, &zero); /* ENOENT where nothing is registered */
	printf("filling the neighbour of a moved page: %s\n",
	       result ? strerrorname_np(errno) : "success, it is registered");
}
