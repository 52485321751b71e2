// Write-protecting anonymous memory that was never touched (feature WP_UNPOPULATED).
// Statements: 47, 70, 79, 106, 108, 109, 112, 137, 138, 139
// It came with 6.4; before, nothing could be left behind in an empty entry of anonymous memory.
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

static int protected(char *page)
{
	unsigned long word = 0;
	int file = open("/proc/self/pagemap", O_RDONLY);

	pread(file, &word, 8, (unsigned long)page / 4096 * 8);
	close(file);
	return word >> 57 & 1;
}

int main(void)
{
	int fd = uffd(1 << 13 /* WP_UNPOPULATED */);
	char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_writeprotect range = { { (unsigned long)memory, 4096 },
					     UFFDIO_WRITEPROTECT_MODE_WP };

	if (fd < 0) {
		printf("WP_UNPOPULATED: the handshake says %s\n", strerrorname_np(errno));
		return 0;
	}
	enroll(fd, memory, 4096, UFFDIO_REGISTER_MODE_WP);
	ioctl(fd, UFFDIO_WRITEPROTECT, &range);
	printf("WP_UNPOPULATED: the empty entry is %s\n",
	       protected(memory) ? "protected" : "not protected");
}
