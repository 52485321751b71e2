// Do mappings of a file join that have guards, when they are registered alike?
// Statements: 227
// Guards of files came with 6.15, and kept mappings apart that had been registered differently when
// the guards were made (seen on 6.17); since 6.18 these join.
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

int main(void)
{
	char *memory = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register second = { .range = { (unsigned long)memory + 4096, 4096 },
					  .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_register first = { .range = { (unsigned long)memory, 4096 },
					 .mode = UFFDIO_REGISTER_MODE_MISSING };
	char line[256], wanted[32];
	FILE *maps;

	ioctl(fd, UFFDIO_API, &api);
	ioctl(fd, UFFDIO_REGISTER, &second);
	if (madvise(memory, 2 * 4096, 102 /* MADV_GUARD_INSTALL */)) {
		printf("guards of a file: %s\n", strerrorname_np(errno));
		return 0;
	}
	ioctl(fd, UFFDIO_REGISTER, &first);
	snprintf(wanted, sizeof(wanted), "%lx-", (unsigned long)memory + 4096);
	maps = fopen("/proc/self/maps", "r");
	while (fgets(line, sizeof(line), maps))
		if (!strncmp(line, wanted, strlen(wanted))) {
			printf("two mappings with guards, registered alike: apart\n");
			return 0;
		}
	printf("two mappings with guards, registered alike: joined\n");
}
