// UFFDIO_WRITEPROTECT of two mappings, the second of which is not registered for WP.
// Statements: 105
// It fails with ENOENT everywhere; 6.12 and later have protected the first by then.
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
	int fd = uffd(0), result;
	char *memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_writeprotect range = { { (unsigned long)memory, 8192 },
					     UFFDIO_WRITEPROTECT_MODE_WP };

	memset(memory, 'p', 8192);
	enroll(fd, memory, 4096, UFFDIO_REGISTER_MODE_WP);
	result = ioctl(fd, UFFDIO_WRITEPROTECT, &range);
	printf("WRITEPROTECT up to a mapping without WP: %s, ", said(result));
	printf("the page before it is %s\n", protected(memory) ? "protected" : "not protected");
}
