/* Many clients of Firecracker's handshake at once, for `bench/serve.py`.
 *
 *   vms SOCKET IMAGE CLIENTS PAGES SEED
 *
 * Each is a process with memory of the image's size.  When all have connected (`connected`), and a
 * line has come, each touches PAGES pages of its own choice, which lie together by 16 as what a
 * guest touches does, in random order, and compares every byte.  Then: `done NANOSECONDS` from that line to the last one's end, and each client's longest
 * wait for a page.  It goes on living until another line comes.  Ends with 1 for a wrong byte.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, RUN = 16 };

static void fail(const char *what)
{
	perror(what);
	exit(3);
}

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static uint64_t next(uint64_t *at)
{
	*at ^= *at << 13, *at ^= *at >> 7, *at ^= *at << 17;
	return *at;
}

static char *connected(const char *path, size_t size)
{
	int fd = -1, device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	fd = device >= 0 ? ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK)
			 : (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE };
	char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct uffdio_register range = { .range = { (uintptr_t)memory, size }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	if (fd < 0 || memory == MAP_FAILED || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range))
		fail("userfaultfd");
	char text[256], room[CMSG_SPACE(sizeof fd)] = { 0 };
	int length = snprintf(text, sizeof text,
			      "[{\"base_host_virt_addr\":%zu,\"size\":%zu,\"offset\":0,\"page_size\":4096,\"page_size_kib\":4096}]",
			      (size_t)memory, size);
	struct sockaddr_un where = { .sun_family = AF_UNIX };
	strncpy(where.sun_path, path, sizeof where.sun_path - 1);
	int channel = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(channel, (struct sockaddr *)&where, sizeof where))
		fail("connect");
	struct iovec part = { text, length };
	struct msghdr sent = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
	struct cmsghdr *with = CMSG_FIRSTHDR(&sent);
	with->cmsg_level = SOL_SOCKET, with->cmsg_type = SCM_RIGHTS, with->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(with), &fd, sizeof fd);
	if (sendmsg(channel, &sent, MSG_NOSIGNAL) != length)
		fail("sendmsg");
	return memory;
}

static uint64_t touch(const char *memory, const char *image, size_t pages, size_t wanted, uint64_t seed)
{
	uint64_t longest = 0, runs = pages / RUN, *order = malloc(pages * sizeof *order);
	uint64_t *run = malloc(runs * sizeof *run);
	for (size_t i = 0; i < runs; i++)
		run[i] = i;
	wanted = wanted < runs * RUN ? (wanted + RUN - 1) / RUN * RUN : runs * RUN;
	for (size_t i = 0; i < wanted / RUN; i++) {
		size_t j = i + next(&seed) % (runs - i), other = run[i];
		run[i] = run[j], run[j] = other;
		for (size_t k = 0; k < RUN; k++)
			order[i * RUN + k] = run[i] * RUN + k;
	}
	for (size_t i = wanted - 1; i > 0; i--) {
		size_t j = next(&seed) % (i + 1), other = order[i];
		order[i] = order[j], order[j] = other;
	}
	for (size_t i = 0; i < wanted; i++) {
		uint64_t before = now_ns();
		(void)*(volatile const char *)(memory + order[i] * PAGE);
		uint64_t took = now_ns() - before;
		longest = took > longest ? took : longest;
		if (memcmp(memory + order[i] * PAGE, image + order[i] * PAGE, PAGE))
			_exit(1);
	}
	return longest;
}

int main(int count, char **texts)
{
	struct stat found;
	int here[2], go[2], end[2];
	char line[8];
	if (count != 6 || pipe(here) || pipe(go) || pipe(end))
		return 2;
	int clients = atoi(texts[3]), file = open(texts[2], O_RDONLY | O_CLOEXEC);
	size_t wanted = atol(texts[4]), seed = atol(texts[5]);
	if (file < 0 || fstat(file, &found))
		fail("image");
	const char *image = mmap(0, found.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
	for (int i = 0; i < clients; i++) {
		if (fork())
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		const char *memory = connected(texts[1], found.st_size);
		close(go[1]), close(end[1]);
		uint64_t longest = 0;
		if (write(here[1], &longest, sizeof longest) < 0 || read(go[0], line, 1) < 0)
			_exit(3);
		longest = touch(memory, image, found.st_size / PAGE, wanted, seed * 1000003 + i * 7919 + 1);
		if (write(here[1], &longest, sizeof longest) < 0 || read(end[0], line, 1) < 0)
			_exit(3);
		_exit(0);
	}
	close(here[1]);
	uint64_t longest;
	for (int i = 0; i < clients; i++)
		if (read(here[0], &longest, sizeof longest) != sizeof longest)
			return 1;
	puts("connected");
	fflush(stdout);
	if (!fgets(line, sizeof line, stdin))
		return 3;
	uint64_t began = now_ns(), *each = calloc(clients, sizeof *each);
	close(go[1]);
	for (int i = 0; i < clients; i++)
		if (read(here[0], &each[i], sizeof each[i]) != sizeof each[i])
			return 1;
	printf("done %llu", (unsigned long long)(now_ns() - began));
	for (int i = 0; i < clients; i++)
		printf(" %llu", (unsigned long long)each[i]);
	puts("");
	fflush(stdout);
	if (!fgets(line, sizeof line, stdin))
		return 3;
	close(end[1]);
	int status, wrong = 0;
	while (wait(&status) > 0)
		wrong |= status;
	return wrong ? 1 : 0;
}
