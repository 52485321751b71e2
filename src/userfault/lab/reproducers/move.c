// UFFDIO_MOVE: a page changes its address without a copy.
// Statements: 95, 96, 97, 98, 99, 100, 101, 154, 160, 161, 162, 164, 215, 222
// It came with 6.8.
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

struct move {
	__u64 dst, src, len, mode;
	__s64 move;
};

int main(void)
{
	int fd = uffd(0), result;
	char *memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *source = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct move move = { (unsigned long)memory, (unsigned long)source, 4096, 0, 0 };

	source[0] = 'm';
	enroll(fd, memory, 8192, UFFDIO_REGISTER_MODE_MISSING);
	result = ioctl(fd, _IOWR(UFFDIO, 5, struct move), &move);
	printf("MOVE: %s%s\n", said(result), result ? "" : memory[0] == 'm' && !source[0]
	       ? ", the source is empty" : ", but the page is not there");
}
