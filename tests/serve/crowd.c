/* Many clients of Firecracker's handshake at work, for as long as it takes (`endurance.py`).
 *
 *   crowd SOCKET IMAGE CLIENTS PAUSE_US BOARD
 *
 * Each is a process with memory of the image's size.  It touches one page after the other, anywhere in
 * its first half (so that its memory is never all in, and is served on), compares all of it with the
 * image (or with zeros, where it has dropped the page before), drops it with a chance of one half, and
 * pauses.  How it stands with each is in BOARD, a file that all map: a cell for orders, then one for each
 * client.  It ends when all have seen every page a last time: with 1 if one has read a wrong byte.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdatomic.h>
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

enum { PAGE = 4096 };
enum { WORK, REST, LOOK };	/* orders */

struct cell {
	_Atomic uint64_t order;		/* of the first cell */
	_Atomic uint64_t longest_ns;	/* that it waited for a page, or for a drop, since it was set to 0 */
	_Atomic uint64_t touches, wrong, since_ns, done, rest[2];
};

static struct cell *board;
static const uint8_t zeros[PAGE];

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

static uint8_t *connected(const char *path, size_t size)
{
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd = device >= 0 ? ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK)
			     : (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE };
	uint8_t *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct uffdio_register range = { .range = { (uintptr_t)memory, size }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	if (fd < 0 || memory == MAP_FAILED || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range))
		fail("userfaultfd");
	char text[256], room[CMSG_SPACE(sizeof fd)] = { 0 };
	int length = snprintf(text, sizeof text, "[{\"base_host_virt_addr\":%zu,\"size\":%zu,\"offset\":0,\"page_size\":4096}]",
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

static void waited(struct cell *mine)
{
	uint64_t took = now_ns() - mine->since_ns;
	if (took > mine->longest_ns)
		mine->longest_ns = took;
	mine->since_ns = 0;
}

static void see(struct cell *mine, const uint8_t *memory, const uint8_t *image, const uint8_t *dropped, size_t page)
{
	const uint8_t *at = memory + page * PAGE;
	mine->since_ns = now_ns();
	(void)*(volatile const uint8_t *)at;
	waited(mine);
	if (memcmp(at, dropped[page] ? zeros : image + page * PAGE, PAGE))
		mine->wrong++;
}

static int work(struct cell *mine, const char *path, const uint8_t *image, size_t size, unsigned pause_us, uint64_t seed)
{
	size_t pages = size / PAGE;
	uint8_t *dropped = calloc(pages, 1), *memory = connected(path, size);
	while (board->order == WORK) {
		size_t page = next(&seed) % (pages / 2);
		see(mine, memory, image, dropped, page);
		if (next(&seed) & 1) {
			mine->since_ns = now_ns();
			if (madvise(memory + page * PAGE, PAGE, MADV_DONTNEED))
				fail("madvise");
			waited(mine);
			dropped[page] = 1;
		}
		mine->touches++;
		usleep(pause_us / 2 + next(&seed) % (pause_us + 1));
	}
	while (board->order != LOOK)
		usleep(10000);
	for (size_t page = 0; page < pages; page++)
		see(mine, memory, image, dropped, page);
	mine->done = 1;
	return mine->wrong ? 1 : 0;
}

int main(int count, char **texts)
{
	struct stat found;
	if (count != 6)
		return 2;
	int clients = atoi(texts[3]), file = open(texts[2], O_RDONLY | O_CLOEXEC), held = open(texts[5], O_RDWR | O_CLOEXEC);
	if (file < 0 || held < 0 || fstat(file, &found))
		fail("image");
	const uint8_t *image = mmap(0, found.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
	board = mmap(0, (clients + 1) * sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, held, 0);
	if (board == MAP_FAILED)
		fail("board");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int i = 1; i <= clients; i++)
		if (!fork()) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			_exit(work(board + i, texts[1], image, found.st_size, atoi(texts[4]), i * 7919 + 1));
		}
	int status, wrong = 0;
	while (wait(&status) > 0)
		wrong |= status;
	return wrong ? 1 : 0;
}
