// Pages that report every touch (feature RWP, mode 8, ioctl RWPROTECT).
// Statements: 40, 113, 114, 116, 185-196
// It came with 7.3.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
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

static void *reader(void *memory)
{
	return (void *)(long)*(volatile char *)memory;
}

int main(void)
{
	int fd = uffd(1 << 17 /* RWP */);
	char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct rwprotect range = { { (unsigned long)memory, 4096 }, 1 };
	struct uffd_msg message;
	pthread_t thread;

	if (fd < 0)
		return printf("RWP: the handshake says %s\n", strerrorname_np(errno)) < 0;
	memory[0] = 'p';
	enroll(fd, memory, 4096, 8 /* MODE_RWP */);
	ioctl(fd, _IOWR(UFFDIO, 9, struct rwprotect), &range);
	pthread_create(&thread, NULL, reader, memory);
	poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, -1);
	read(fd, &message, sizeof(message));
	printf("RWP: a read is reported with flags %lld\n", message.arg.pagefault.flags);
	_exit(fflush(stdout));
}
