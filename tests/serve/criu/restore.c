/* A task that says what CRIU's tasks say, written from the published text, with stops on the way.

   restore SOCKET PID ADDRESS PAGES STOP: PAGES pages at ADDRESS are in the images, as many behind
   them are not.  At STOP it says so and waits for a line.  At the end it looks at every byte, then
   has a child that was forked before do so, and says "right" or what was wrong.  */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096 };

static const char *stop;
static char *memory;
static long pages;

static void
need (int right, const char *what)
{
  if (!right)
    {
      printf ("%s failed\n", what);
      fflush (stdout);
      _exit (1);
    }
}

static void
at (const char *where)
{
  char line[8];
  if (strcmp (where, stop) != 0)
    return;
  puts (where);
  fflush (stdout);
  need (fgets (line, sizeof line, stdin) != NULL, "waiting");
}

static void
say (int channel, const void *bytes, size_t size, int fd)
{
  char room[CMSG_SPACE (sizeof fd)] = { 0 };
  struct iovec part = { (void *) bytes, size };
  struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
  if (fd >= 0)
    {
      message.msg_control = room;
      message.msg_controllen = sizeof room;
      struct cmsghdr *head = CMSG_FIRSTHDR (&message);
      head->cmsg_level = SOL_SOCKET;
      head->cmsg_type = SCM_RIGHTS;
      head->cmsg_len = CMSG_LEN (sizeof fd);
      memcpy (CMSG_DATA (head), &fd, sizeof fd);
    }
  need (sendmsg (channel, &message, MSG_NOSIGNAL) == (ssize_t) size, "sendmsg");
}

static int
opened (void)
{
  int fd = syscall (SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  struct uffdio_api api = { .api = UFFD_API,
                            .features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP
                                        | UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMOVE };
  need (fd >= 0 && ioctl (fd, UFFDIO_API, &api) == 0, "userfaultfd");
  return fd;
}

static const char *
looked (void)
{
  for (long page = 0; page < 2 * pages; page++)
    {
      uint64_t *words = (uint64_t *) (memory + page * PAGE);
      uint64_t last = page < pages ? (page % 251 + 1) * 0x0101010101010101ul : 0;
      if (words[0] != (page < pages ? (uint64_t) page + 1 : 0) || words[PAGE / 8 - 1] != last)
        return "wrong";
    }
  return "right";
}

int
main (int count, char **words)
{
  (void) count;
  struct sockaddr_un name = { .sun_family = AF_UNIX };
  strncpy (name.sun_path, words[1], sizeof name.sun_path - 1);
  int32_t pid = atoi (words[2]), zombie = -12345, finished = 0x52535446;
  pages = atol (words[4]);
  stop = words[5];
  memory = mmap ((void *) strtoul (words[3], 0, 0), 2 * pages * PAGE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  need (memory != MAP_FAILED, "mmap");
  /* CRIU has restored this one itself, though its entry says that it need not.  */
  for (int word = 0; word < PAGE / 8 && !getenv ("WHOLE"); word++)
    ((uint64_t *) (memory + PAGE))[word] = word ? 0x0202020202020202ul : 2;
  int uffd = opened ();
  int channel = socket (AF_UNIX, SOCK_STREAM, 0);
  need (connect (channel, (struct sockaddr *) &name, sizeof name) == 0, "connect");
  at ("connected");
  say (channel, &zombie, sizeof zombie, -1);
  say (channel, &pid, 2, -1);
  at ("half");
  say (channel, (char *) &pid + 2, 2, -1);
  at ("pid");
  say (channel, "", 1, uffd);
  at ("task");
  struct uffdio_register range = { .range = { (uintptr_t) memory, 2 * pages * PAGE },
                                   .mode = UFFDIO_REGISTER_MODE_MISSING };
  need (ioctl (uffd, UFFDIO_REGISTER, &range) == 0, "register");
  close (uffd);
  need (*(volatile uint64_t *) memory == 1, "the first page");
  at ("registered");
  say (channel, &finished, 3, -1);
  at ("nearly");
  say (channel, (char *) &finished + 3, 1, -1);
  close (channel);
  at ("finished");
  int line[2], child;
  need (pipe (line) == 0, "pipe");
  if ((child = fork ()) == 0)
    {
      char byte;
      close (line[1]);
      need (read (line[0], &byte, 1) == 0, "waiting");
      _exit (strcmp (looked (), "right") != 0);
    }
  const char *found = looked ();
  at ("alone");
  close (line[1]);
  int status = -1;
  waitpid (child, &status, 0);
  printf ("%s\n", status ? "wrong in the child" : found);
  fflush (stdout);
  pause ();
}
