// Preloaded by `userfault exec`: a mapping of a file that it was told of becomes memory that a pager
// fills.  USERFAULT_EXEC is "DEVICE INODE ITSELF ... PATH": the files, by fstat(2), whether their own
// mapping will do, and the socket of the command (words.py has the messages).  What the kernel would map is mapped first,
// so that addresses, flags and errors are its own; over it comes the memory, which nobody can touch
// until the pager has it.  Of the C library it needs three functions that each has: one build goes
// into programs of glibc and of musl.
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

enum { FILES = 64, PLACES = 1024 };
#define PUBLIC __attribute__((visibility("default")))
#define WHOLE(length) (((length) + 4095) & ~4095ULL)

enum what { ASK = 1, MAP, LEAVE, GIVEN, SERVED, FAILED };
enum { USER_MODE_ONLY = 1, WITH_MEMORY = 2 };  // flags of MAP
struct message {
	uint32_t magic, what, file, error;         // error: errno of the call that `step` counts
	uint32_t protection, flags, access, step;  // of mmap(2); access: how the file is open
	uint64_t address, length, offset;
	uint64_t features, optional, modes;        // of the userfaultfd, and of the registration
};
_Static_assert(sizeof(struct message) == MESSAGE_BYTES, "words.py has another message");

static uint64_t files[FILES][3];  // device, inode, and whether it is its own source
static unsigned count;  // of them
static struct sockaddr_un server = {.sun_family = AF_UNIX};
static char *places[PLACES];  // where lazy memory begins

extern char *getenv(const char *name);
PUBLIC uint32_t userfault_exec_magic(void) { return MAGIC; }

__attribute__((constructor)) static void begin(void)
{
	const char *told = getenv("USERFAULT_EXEC");
	unsigned fields = 0, at = 0;
	for (; told && *told && *told != '/'; told++)
		if (*told == ' ')
			fields++;
		else if (fields < 3 * FILES)
			files[fields / 3][fields % 3] = files[fields / 3][fields % 3] * 10 + *told - '0';
	for (; told && told[at] && at < sizeof server.sun_path - 1; at++)
		server.sun_path[at] = told[at];
	count = at ? fields / 3 : 0;
}

// Whether lazy memory begins in [start, start + length); from now on it begins at `now`.
static int places_of(char *start, size_t length, char *now)
{
	int found = 0;
	for (char **at = places; count && at < places + PLACES; at++)
		if (*at && *at >= start && *at < start + length)
			*at = now, found++;
	return found;
}

static long closed(int fd) { return fd < 0 ? 0 : syscall(SYS_close, fd); }
static int file_of(int fd)
{
	struct stat found;
	if (count && fd >= 0 && !syscall(SYS_fstat, fd, &found))
		for (unsigned at = 0; at < count; at++)
			if (files[at][0] == found.st_dev && files[at][1] == found.st_ino)
				return at;
	return -1;
}

static long carried(long call, int channel, struct msghdr *packet, int flags)
{
	long done = syscall(call, channel, packet, flags);
	return done < 0 && errno == EINTR ? carried(call, channel, packet, flags) : done;
}

// Send `told`, with descriptor `fd` if there is one; the answer takes its place.  The answer's
// descriptor, or -1; -2 where the command has gone.
static int exchange(int channel, struct message *told, int fd)
{
	union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control = {0};
	struct msghdr packet = {.msg_iov = &(struct iovec){told, sizeof *told}, .msg_iovlen = 1};
	if (fd >= 0) {
		control.head.cmsg_len = CMSG_LEN(sizeof fd);
		control.head.cmsg_level = SOL_SOCKET, control.head.cmsg_type = SCM_RIGHTS;
		*(int *)CMSG_DATA(&control.head) = fd;
		packet.msg_control = &control, packet.msg_controllen = sizeof control;
	}
	if (carried(SYS_sendmsg, channel, &packet, MSG_NOSIGNAL) != sizeof *told)
		return -2;
	packet.msg_control = &control, packet.msg_controllen = sizeof control;
	if (carried(SYS_recvmsg, channel, &packet, MSG_CMSG_CLOEXEC) != sizeof *told || told->magic != MAGIC)
		return -2;
	return packet.msg_controllen >= CMSG_LEN(sizeof fd) ? *(int *)CMSG_DATA(&control.head) : -1;
}

static int opened(int user_mode_only)
{
	int flags = O_CLOEXEC | O_NONBLOCK, fd = -1;
	int device = syscall(SYS_openat, AT_FDCWD, "/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device < 0 || (fd = syscall(SYS_ioctl, device, USERFAULTFD_IOC_NEW, flags)) < 0)
		fd = syscall(SYS_userfaultfd, flags);
	closed(device);
	return fd < 0 && user_mode_only ? syscall(SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY) : fd;
}

// Map the memory over what is at `at`, and register it: 0, or the step that failed.
static int prepared(struct message *told, char *at, int memory, int *uffd)
{
	int flags = MAP_FIXED | MAP_NORESERVE | (memory < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
	uint64_t api[3] = {UFFD_API, told->features | told->optional, 0};
	uint64_t registration[4] = {(uintptr_t)at, told->length, told->modes, 0};
	if (memory < 0 && told->flags & WITH_MEMORY)  // no descriptor was left for it
		return errno = EMFILE, 5;
	if ((*uffd = opened(told->flags & USER_MODE_ONLY)) < 0)
		return 1;
	if (syscall(SYS_ioctl, *uffd, UFFDIO_API, api)) {  // EPERM: no events of fork(2) for this user
		api[0] = UFFD_API, api[1] = told->features, told->optional = 0;
		if (syscall(SYS_ioctl, *uffd, UFFDIO_API, api))
			return 2;
	}
	// PROT_NONE: neither mlockall(2) nor another thread brings a page before it is registered.
	if (syscall(SYS_mmap, at, told->length, PROT_NONE, flags, memory, memory < 0 ? 0 : told->offset) < 0)
		return 3;
	if (syscall(SYS_ioctl, *uffd, UFFDIO_REGISTER, registration))
		return 4;
	if (!told->optional)  // a child would read zeros where nothing is filled
		syscall(SYS_madvise, at, told->length, MADV_DONTFORK);
	return 0;
}

// `at` shows the file as the kernel has mapped it: show the pager's memory there instead.
static void *lazily(char *at, const struct message *asked, int fd, int before)
{
	int channel = syscall(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	int memory = -2, uffd = -1;
	struct message told = *asked;
	if (channel >= 0 && !syscall(SYS_connect, channel, &server, sizeof server))
		memory = exchange(channel, &told, -1);
	if (memory > -2 && told.what == MAP) {
		told.step = prepared(&told, at, memory, &uffd);
		told.error = told.step ? errno : 0;
		told.what = told.step ? FAILED : GIVEN;
		if (exchange(channel, &told, told.step ? -1 : uffd) == -2)
			told.what = FAILED;
	}
	closed(uffd);  // the pager has it; or it was the last one, and nothing is registered any more
	closed(memory), closed(channel);
	errno = before;
	if (memory > -2 && told.what == SERVED) {
		syscall(SYS_mprotect, at, told.length, asked->protection);
		for (char **place = places; place < places + PLACES; place++)
			if (__sync_bool_compare_and_swap(place, NULL, at))
				break;
		return at;
	}
	if ((memory > -2 && told.what == LEAVE) || files[asked->file][2])
		return (void *)syscall(SYS_mmap, at, asked->length, asked->protection,
				asked->flags | MAP_FIXED, fd, asked->offset);
	syscall(SYS_munmap, at, asked->length);
	errno = EIO;
	return MAP_FAILED;
}

PUBLIC void *mmap(void *wanted, size_t length, int protection, int flags, int fd, off_t offset)
{
	int before = errno, file = flags & MAP_ANONYMOUS ? -1 : file_of(fd);
	int now = file < 0 ? flags : flags & ~(MAP_POPULATE | MAP_LOCKED);  // they would read it all
	char *at = (char *)syscall(SYS_mmap, wanted, length, protection, now, fd, offset);
	struct message asked = {MAGIC, ASK, .file = file, .protection = protection, .offset = offset,
		.flags = now & ~MAP_FIXED_NOREPLACE, .address = (uintptr_t)at, .length = WHOLE(length)};
	if (file < 0 || at == MAP_FAILED)
		return at;
	asked.access = syscall(SYS_fcntl, fd, F_GETFL) & O_ACCMODE;
	return lazily(at, &asked, fd, before);
}

PUBLIC __typeof__(mmap) mmap64 __attribute__((alias("mmap"), copy(mmap)));
PUBLIC int munmap(void *start, size_t length)
{
	places_of(start, length, NULL);
	return syscall(SYS_munmap, start, length);
}

// What grows shows more of the file, of which the pager would not know: who may not, maps it anew.
PUBLIC void *mremap(void *start, size_t length, size_t wanted, int flags, ...)
{
	__builtin_va_list more;
	__builtin_va_start(more, flags);
	void *now, *to = flags & MREMAP_FIXED ? __builtin_va_arg(more, void *) : NULL;
	if (places_of(start, 1, start) && WHOLE(wanted) > WHOLE(length))
		return errno = ENOMEM, MAP_FAILED;
	if ((now = (void *)syscall(SYS_mremap, start, length, wanted, flags, to)) != MAP_FAILED)
		places_of(start, 1, now);
	return now;
}
