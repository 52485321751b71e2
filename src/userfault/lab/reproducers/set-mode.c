// RWP faults that the kernel repairs itself (feature RWP_ASYNC), switched on by UFFDIO_SET_MODE.
// Statements: 11, 115, 197, 198, 199, 200, 201, 202
// It came with 7.3.
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

struct rwprotect {
	struct uffdio_range range;
	__u64 mode;
};

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
	int fd = uffd(1 << 17 /* RWP */);
	char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct rwprotect range = { { (unsigned long)memory, 4096 }, 1 };
	__u64 set_mode[2] = { 1 << 18 /* enable RWP_ASYNC */, 0 };
	int result;

	result = ioctl(fd < 0 ? uffd(0) : fd, _IOW(UFFDIO, 10, set_mode), set_mode);
	if (result) {
		printf("SET_MODE: %s\n", strerrorname_np(errno));
		return 0;
	}
	memory[0] = 'p';
	enroll(fd, memory, 4096, 8 /* MODE_RWP */);
	ioctl(fd, _IOWR(UFFDIO, 9, struct rwprotect), &range);
	memory[0] = 'w'; /* would wait for ever if it were reported */
	printf("SET_MODE: success, a write to a protected page is not reported\n");
}
