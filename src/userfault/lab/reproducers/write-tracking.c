// Write tracking without messages (feature WP_ASYNC), on memory and on an ordinary file.
// Statements: 10, 31, 32, 35, 42, 143, 144, 145, 183, 184, 203, 221, 226
// It came with 6.7, together with PAGEMAP_SCAN.
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
	int fd = uffd(1 << 15 /* WP_ASYNC */), file = open("/proc/self/exe", O_RDONLY);
	char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	struct uffdio_writeprotect range = { { (unsigned long)memory, 4096 },
					     UFFDIO_WRITEPROTECT_MODE_WP };

	if (fd < 0) {
		printf("WP_ASYNC: the handshake says %s\n", strerrorname_np(errno));
		return 0;
	}
	enroll(fd, memory, 4096, UFFDIO_REGISTER_MODE_WP);
	ioctl(fd, UFFDIO_WRITEPROTECT, &range);
	memory[0] = 'w'; /* would wait for ever if it were reported */
	printf("WP_ASYNC: a write %s, a mapping of a file registers: %s\n",
	       protected(memory) ? "leaves the page protected" : "lifts the protection",
	       enroll(fd, mapped, 4096, UFFDIO_REGISTER_MODE_WP) ? strerrorname_np(errno) : "yes");
}
