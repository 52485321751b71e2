// Which ioctls does a registration announce, for each mode?
// Statements: 38, 39
// Bit n stands for ioctl n: POISON is 8 (6.6), MOVE 5 (6.8), RWPROTECT 9 (7.3).
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

static unsigned long announced(int file, unsigned long mode)
{
	int kind = file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd = uffd(0);
	void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, kind, file, 0);
	struct uffdio_register range = { { (unsigned long)memory, 4096 }, mode, 0 };
	int result = ioctl(fd, UFFDIO_REGISTER, &range);

	close(fd);
	return result ? 0 : range.ioctls;
}

int main(void)
{
	int file = memfd_create("shmem", 0);

	ftruncate(file, 4096);
	printf("anonymous: MISSING %#lx, WP %#lx;", announced(-1, UFFDIO_REGISTER_MODE_MISSING),
	       announced(-1, UFFDIO_REGISTER_MODE_WP));
	printf(" shmem: MISSING %#lx, WP %#lx,", announced(file, UFFDIO_REGISTER_MODE_MISSING),
	       announced(file, UFFDIO_REGISTER_MODE_WP));
	printf(" MINOR %#lx\n", announced(file, UFFDIO_REGISTER_MODE_MINOR));
}
