// Can System V shared memory of huge pages be registered?
// Statements: 36
// Since 7.1 a mapping is asked for its table of operations; the wrapper of System V shared memory
// has none, so what was recognised as huge pages before is refused.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
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
	int id = shmget(IPC_PRIVATE, 2 << 20, IPC_CREAT | SHM_HUGETLB | SHM_NORESERVE | 0600);
	void *memory = shmat(id, NULL, 0);
	int modes[] = { UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_WP,
			UFFDIO_REGISTER_MODE_MINOR };
	const char *names[] = { "MISSING", "WP", "MINOR" };

	printf("registering a segment of huge pages:");
	for (int i = 0; i < 3; i++) {
		int fd = uffd(0);

		printf(" %s %s%s", names[i], said(enroll(fd, memory, 2 << 20, modes[i])),
		       i < 2 ? "," : "\n");
		close(fd);
	}
	shmctl(id, IPC_RMID, NULL);
}
