/* A tree of processes that is dumped, restored, and then does with its memory all that raises events.

   tree FOLDER: makes its memory, and the file `ready`; once there is a file `go`, every process of
   the tree looks at each byte in its own way and writes `result.N`: "right", or what was wrong.  */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 1024, KINDS = 8, PROCESSES = 3, TORN = 7 };

static const char *folder;
static char *area[KINDS];
static int self;
static char wrong[512];

static void
path_of (char *path, const char *name, int number)
{
  if (number < 0)
    snprintf (path, 300, "%s/%s", folder, name);
  else
    snprintf (path, 300, "%s/%s.%d", folder, name, number);
}

static void
tell (const char *name, int number, const char *text)
{
  char path[300], whole[300];
  path_of (whole, name, number);
  path_of (path, "new", number);
  FILE *file = fopen (path, "w");
  fputs (text, file);
  fclose (file);
  rename (path, whole);
}

static void
await (const char *name)
{
  char path[300];
  path_of (path, name, -1);
  while (access (path, F_OK) != 0)
    usleep (1000);
}

static long
value (int kind, long page)
{
  return (long) self << 40 | (long) kind << 32 | (page + 1);
}

static char *
map (long pages)
{
  char *at = mmap (0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED)
    abort ();
  return at;
}

/* Page PAGE of KIND is at AT: of every word the first and the last are looked at.  */
static void
expect (const char *at, int kind, long page, long expected)
{
  const long *words = (const long *) at;
  if (wrong[0] == 0 && (words[0] != expected || words[PAGE / 8 - 1] != expected))
    snprintf (wrong, sizeof wrong, "process %d, kind %d, page %ld: %lx, not %lx", self, kind, page,
              words[0], expected);
}

static void
fill (int kind)
{
  for (long page = 0; page < PAGES; page++)
    for (int word = 0; word < PAGE / 8; word++)
      ((long *) (area[kind] + page * PAGE))[word] = value (kind, page);
}

static void
make (void)
{
  for (int kind = 0; kind < KINDS - 1; kind++)
    {
      area[kind] = map (PAGES + 1);
      munmap (area[kind] + PAGES * PAGE, PAGE); /* a hole, so that areas are not joined */
      fill (kind);
    }
  area[KINDS - 1] = map (PAGES); /* every second page only */
  for (long page = 0; page < PAGES; page += 2)
    *(long *) (area[KINDS - 1] + page * PAGE) = value (KINDS - 1, page);
}

static void
moved (void)
{
  char *to = map (2 * PAGES);
  char *at = mremap (area[0], PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
  for (long page = 0; page < PAGES; page++)
    expect (at + page * PAGE, 0, page, value (0, page));
  /* A part of it, which grows.  */
  char *part = mremap (area[1] + 100 * PAGE, 200 * PAGE, 400 * PAGE, MREMAP_MAYMOVE);
  for (long page = 0; page < 400; page++)
    expect (part + page * PAGE, 1, page, page < 200 ? value (1, 100 + page) : 0);
  for (long page = 0; page < PAGES; page++)
    if (page < 100 || page >= 300)
      expect (area[1] + page * PAGE, 1, page, value (1, page));
}

static void
dropped (void)
{
  madvise (area[2] + 300 * PAGE, 300 * PAGE, MADV_DONTNEED);
  for (long page = 0; page < PAGES; page++)
    expect (area[2] + page * PAGE, 2, page, page < 300 || page >= 600 ? value (2, page) : 0);
}

static void
unmapped (void)
{
  munmap (area[3] + 200 * PAGE, 100 * PAGE);
  char *again = mmap (area[3] + 200 * PAGE, 100 * PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  for (long page = 0; page < 100; page++)
    expect (again + page * PAGE, 3, page, 0);
  mprotect (area[3] + 500 * PAGE, 10 * PAGE, PROT_READ);
  for (long page = 0; page < PAGES; page++)
    if (page < 200 || page >= 300)
      expect (area[3] + page * PAGE, 3, page, value (3, page));
}

static void
forked (void)
{
  int pid[2];
  for (int child = 0; child < 2; child++)
    if ((pid[child] = fork ()) == 0)
      {
        wrong[0] = 0;
        for (long page = 0; page < PAGES; page++)
          {
            long at = child ? PAGES - 1 - page : page;
            expect (area[4] + at * PAGE, 4, at, value (4, at));
          }
        if (child)
          mremap (area[5], PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, map (PAGES));
        if (wrong[0])
          tell ("child", self, wrong);
        _exit (wrong[0] != 0);
      }
  /* What the parent writes meanwhile is not the child's.  */
  for (long page = 0; page < PAGES; page++)
    for (int word = 0; word < PAGE / 8; word += PAGE / 8 - 1)
      ((long *) (area[4] + page * PAGE))[word] = -1;
  for (int child = 0; child < 2; child++)
    {
      int status;
      waitpid (pid[child], &status, 0);
      if (status && wrong[0] == 0)
        snprintf (wrong, sizeof wrong, "child %d of process %d: %x", child, self, status);
    }
  for (long page = 0; page < PAGES; page++)
    {
      expect (area[4] + page * PAGE, 4, page, -1);
      expect (area[5] + page * PAGE, 5, page, value (5, page));
    }
}

static void *
walk (void *step)
{
  for (long page = 0; page < PAGES; page++)
    {
      long at = page * (long) step % PAGES;
      expect (area[6] + at * PAGE, 6, at, value (6, at));
    }
  return 0;
}

static void
threads (void)
{
  pthread_t held[3];
  for (long each = 0; each < 3; each++)
    pthread_create (&held[each], 0, walk, (void *) (2 * each + 1));
  for (int each = 0; each < 3; each++)
    pthread_join (held[each], 0);
}

static void
sparse (void)
{
  for (long page = PAGES - 1; page >= 0; page--)
    {
      long found = *(long *) (area[KINDS - 1] + page * PAGE);
      if (wrong[0] == 0 && found != (page % 2 ? 0 : value (KINDS - 1, page)))
        snprintf (wrong, sizeof wrong, "process %d, sparse page %ld: %lx", self, page, found);
    }
}

int
main (int count, char **words)
{
  (void) count;
  folder = words[1];
  while (self < PROCESSES - 1 && fork () == 0)
    self++;
  int zombie = fork ();
  if (zombie == 0)
    _exit (TORN);
  siginfo_t held;
  waitid (P_PID, zombie, &held, WEXITED | WNOWAIT);
  make ();
  tell ("ready", self, "");
  await ("go");
  moved ();
  tell ("half", self, "");
  await ("on");
  dropped ();
  unmapped ();
  forked ();
  threads ();
  sparse ();
  int status = 0;
  if (waitpid (zombie, &status, 0) != zombie || WEXITSTATUS (status) != TORN)
    snprintf (wrong, sizeof wrong, "the zombie of process %d: %x", self, status);
  tell ("result", self, wrong[0] ? wrong : "right");
  await ("never");
}
