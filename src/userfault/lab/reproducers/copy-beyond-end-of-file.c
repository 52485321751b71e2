// What do COPY and ZEROPAGE say beyond the end of a file of shared shmem?
// Statements: 63
// Since 7.1 the size of the file is looked at by the hook that allocates the page, whose only way
// to fail is to return none: EFAULT became ENOMEM.
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
	int fd = uffd(0), file = memfd_create("shmem", 0);
	char *memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	static char source[4096];
	struct uffdio_copy copy = { (unsigned long)memory + 4096, (unsigned long)source, 4096, 0, 0 };
	struct uffdio_zeropage zero = { { (unsigned long)memory + 4096, 4096 }, 0, 0 };

	ftruncate(file, 4096);
	enroll(fd, memory, 8192, UFFDIO_REGISTER_MODE_MISSING);
	printf("COPY beyond the end of the file: %s,", said(ioctl(fd, UFFDIO_COPY, &copy)));
	printf(" ZEROPAGE: %s\n", said(ioctl(fd, UFFDIO_ZEROPAGE, &zero)));
}
