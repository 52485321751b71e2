/* Records which pages of one memory of somebody else's program are touched, in order: preloaded
 * (LD_PRELOAD), it registers that memory with userfaultfd and serves it by single pages.
 *
 * TOUCHES_OUT   where the records go (as docs/trace.md has them), behind a u64: the pages
 * TOUCHES_MAP   a file: the first mapping of it of at least a MiB is replaced by memory that shows it
 * TOUCHES_HEAP  a file: at SIGUSR2 the largest private memory of the program is written there, dropped,
 *               and comes back page by page.  (The signal interrupts the thread whose memory it is.)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
enum { FAULT = 0, FILLED = 1, DEMAND = 8 };

static uint64_t start, length;
static int uffd = -1, source = -1, out = -1;
static int ready[2]; /* a pipe: the handler waits for the memory */
static char page[PAGE] __attribute__((aligned(PAGE)));

struct record {
	uint64_t when;
	uint32_t page, extent;
};

static void fail(const char *what)
{
	perror(what);
	_exit(99);
}

static void record(unsigned int what, uint64_t number, uint32_t extent)
{
	struct timespec now;
	struct record line = { .page = (uint32_t)number, .extent = extent };

	clock_gettime(CLOCK_MONOTONIC, &now);
	line.when = ((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec) << 8 | what;
	if (write(out, &line, sizeof(line)) != sizeof(line))
		fail("write of a record");
}

static void *handler(void *unused)
{
	struct uffd_msg message;
	struct uffdio_copy copy;
	char go;

	(void)unused;
	if (read(ready[0], &go, 1) != 1)
		return NULL;
	for (;;) {
		struct pollfd wait = { .fd = uffd, .events = POLLIN };

		poll(&wait, 1, -1);
		if (read(uffd, &message, sizeof(message)) != sizeof(message))
			continue;
		if (message.event != UFFD_EVENT_PAGEFAULT)
			continue;
		uint64_t offset = (message.arg.pagefault.address - start) & ~(PAGE - 1);

		record(FAULT, offset / PAGE, (uint32_t)message.arg.pagefault.flags);
		memset(page, 0, PAGE);
		if (pread(source, page, PAGE, (off_t)offset) < 0)
			fail("pread of the source");
		copy = (struct uffdio_copy){ .dst = start + offset, .src = (uint64_t)page, .len = PAGE };
		ioctl(uffd, UFFDIO_COPY, &copy); /* EEXIST: another thread faulted there too */
		record(DEMAND << 4 | FILLED, offset / PAGE, 1);
	}
	return NULL;
}

static void register_memory(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .range = { start, length }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	uint64_t pages = length / PAGE;

	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &reg))
		fail("userfaultfd");
	if (write(out, &pages, sizeof(pages)) != sizeof(pages))
		fail("write");
}

static void begin(void)
{
	if (write(ready[1], "", 1) != 1)
		fail("write");
}

/* --- a file that the program maps ------------------------------------------------------------ */

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
	const char *name = getenv("TOUCHES_MAP");
	struct stat wanted, found;
	void *made;

	if (name && uffd < 0 && fd >= 0 && size >= 1 << 20 && !offset && !stat(name, &wanted) &&
	    !fstat(fd, &found) && wanted.st_ino == found.st_ino && wanted.st_dev == found.st_dev) {
		flags = (flags & MAP_FIXED) | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
		made = (void *)syscall(SYS_mmap, address, size, PROT_READ | PROT_WRITE, flags, -1, 0);
		if (made == MAP_FAILED)
			return made;
		madvise(made, size, MADV_NOHUGEPAGE);
		source = open(name, O_RDONLY | O_CLOEXEC);
		start = (uint64_t)made;
		length = (size + PAGE - 1) & ~(PAGE - 1);
		register_memory();
		begin();
		return made;
	}
	return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
	return mmap(address, size, protection, flags, fd, offset);
}

/* --- the memory that the program has ---------------------------------------------------------- */

static void largest(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512], may[8], rest[300];
	uint64_t low, high;

	length = 0;
	while (maps && fgets(line, sizeof(line), maps)) {
		rest[0] = 0;
		if (sscanf(line, "%lx-%lx %7s %*x %*s %*d %299s", &low, &high, may, rest) < 3)
			continue;
		if (!strncmp(may, "rw-p", 4) && (!rest[0] || !strcmp(rest, "[heap]")) && high - low > length)
			start = low, length = high - low;
	}
	if (maps)
		fclose(maps);
}

static void swap_out(int signal)
{
	(void)signal;
	if (uffd >= 0)
		return;
	for (uint64_t at = 0; at < length;) {
		ssize_t wrote = pwrite(source, (char *)start + at, length - at, (off_t)at);

		if (wrote <= 0)
			fail("pwrite of the memory");
		at += (uint64_t)wrote;
	}
	register_memory();
	madvise((void *)start, length, MADV_NOHUGEPAGE);
	if (madvise((void *)start, length, MADV_DONTNEED))
		fail("madvise");
	begin();
}

static void find(int signal)
{
	(void)signal;
	largest(); /* on the heap still: it takes memory itself */
}

__attribute__((constructor)) static void prepare(void)
{
	const char *name = getenv("TOUCHES_OUT"), *heap = getenv("TOUCHES_HEAP");
	pthread_t thread;

	if (!name || (!heap && !getenv("TOUCHES_MAP")))
		return;
	out = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (out < 0 || pipe2(ready, O_CLOEXEC) || pthread_create(&thread, NULL, handler, NULL))
		fail("preparing");
	if (heap) {
		source = open(heap, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		signal(SIGUSR1, find);
		signal(SIGUSR2, swap_out);
	}
}
