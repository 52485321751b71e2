// Memory of a KVM guest (guest_memfd): can it be mapped, and registered?
// Statements: 41, 42, 204, 205, 206, 207, 208, 209
// It can be mapped since 6.18; no release registers it, except for WP alone under WP_ASYNC.
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
	int machine = ioctl(open("/dev/kvm", O_RDWR), _IO(0xAE, 1) /* KVM_CREATE_VM */, 0);
	__u64 wanted[8] = { 4096, 3 /* MMAP and INIT_SHARED */ };
	int file = ioctl(machine, _IOWR(0xAE, 0xd4, wanted) /* KVM_CREATE_GUEST_MEMFD */, wanted);
	const char *names[] = { "MISSING", "WP", "MINOR", "WP under WP_ASYNC" };
	int modes[] = { 1, 2, 4, 2 };
	char *memory;

	if (machine < 0 || file < 0) {
		printf("guest_memfd that can be mapped: %s says %s\n",
		       machine < 0 ? "KVM" : "KVM_CREATE_GUEST_MEMFD", strerrorname_np(errno));
		return 0;
	}
	memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	printf("registering a guest_memfd:");
	for (int i = 0; i < 4; i++) {
		int fd = uffd(i == 3 ? 1 << 15 /* WP_ASYNC */ : 0);

		printf(" %s %s%s", names[i], said(enroll(fd, memory, 4096, modes[i])),
		       i < 3 ? "," : "\n");
		close(fd);
	}
}
