// What do fills do to a guard region (MADV_GUARD_INSTALL)?
// Statements: 71, 79, 150, 182
// Guard regions came with 6.13, for files with 6.15.  Up to 6.18 COPY, CONTINUE and the ZEROPAGE
// of shared memory overwrite the marker; since 7.1 they fail.
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
	int fd = uffd(0), file = memfd_create("shmem", 0), rw = PROT_READ | PROT_WRITE;
	char *memory, source[4096] = "s";
	unsigned long at;

	ftruncate(file, 3 * 4096);
	memory = mmap(NULL, 3 * 4096, rw, MAP_SHARED, file, 0);
	at = (unsigned long)memory;
	enroll(fd, memory, 3 * 4096, UFFDIO_REGISTER_MODE_MISSING);
	if (madvise(memory, 3 * 4096, 102 /* MADV_GUARD_INSTALL */)) {
		printf("guard regions in a file mapping: %s\n", strerrorname_np(errno));
		return 0;
	}
	struct uffdio_copy copy = { at, (unsigned long)source, 4096, 0, 0 };
	struct uffdio_zeropage zero = { { at + 4096, 4096 }, 0, 0 };
	struct uffdio_continue cached = { { at + 8192, 4096 }, 0, 0 };

	pwrite(file, "c", 1, 8192);
	printf("over a guard: COPY %s,", said(ioctl(fd, UFFDIO_COPY, &copy)));
	printf(" ZEROPAGE %s,", said(ioctl(fd, UFFDIO_ZEROPAGE, &zero)));
	printf(" CONTINUE %s\n", said(ioctl(fd, UFFDIO_CONTINUE, &cached)));
}
