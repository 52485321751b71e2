/* The touching threads of the stress test: they fault, write, drop, move, unmap and fork.
 *
 * In C because a Python thread that waits in a page fault holds the interpreter's lock.  Python
 * makes the memory (`userfault.lazy`) and hands each mapping over as a "slot".
 *
 * The judge is judge.h.  Readers fault while pages are dropped, moved and unmapped.  What they may
 * meet besides words: SIGBUS on a page whose source always fails (or that the pool of huge pages
 * has no memory for), SIGSEGV on a page that was moved or unmapped meanwhile.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "judge.h"

enum op { READ, WRITE, ALIAS, DROP, REMOVE, PUNCH, MOVE, UNMAP, FORK, CHILD, OPS };
enum place { HOME, ATTIC, TRANSIT, GONE };
enum plant { NONE, STALE, ZEROED, HALF, LOST, SIGBUSED }; /* PLANTS of board.py */

#define THREADS 8
#define SLOTS 8
#define SLOW 4096
#define WRONGS 64
#define RANGE 8
#define SLOW_NS 500000ull
#define FORK_PAUSE_NS 30000000ull
#define CHILD_ACCESSES 40
#define NO_STATE 255

/* --- what the referee sees (tests/stress/board.py has the same layout) ------------------------ */

struct slow {
    uint64_t start, end, slot, op;
};

struct wrong {
    uint64_t when, slot, page, op, found, shown, coming, before, last_op, child, planted,
        seen, before_seq, seq, address, entry, state;
};

struct thread {
    shared64 started, tid, slot, page, op, accesses, undecided, faulted, refused;
    shared64 done[OPS];
    shared64 slow_count;
    struct slow slow[SLOW];
};

struct board {
    shared64 stop, wrong_begun, wrong_count;
    struct wrong wrong[WRONGS];
    struct thread thread[2 * THREADS]; /* behind the threads: the child that each has forked */
};

/* --- what a process knows of the memory -------------------------------------------------------- */

struct slot {
    uint8_t *home, *attic, *alias;
    const uint8_t *states; /* what the pager's record says of each page */
    uint64_t page_size, pages, step, words, kind, begun, lasts, length;
    int fd, shared, huge, forks;
    int budget;             /* pages that nobody wrote may go; 2: those that were written, too */
    struct page *page;      /* shared with forked children where the memory is */
    _Atomic uint8_t *place; /* each process has its own */
    uint64_t version;
    _Atomic int open, users;
};

static struct board *board;
static struct slot slots[SLOTS];
static _Atomic int moving, dropping, forking; /* see `enter_space` */
static _Atomic int settled_space = 1, up;
static shared64 last_fork;
static shared64 next_version = 1;
static pthread_t threads[THREADS];
static int running;
static int is_child, plant, empty_file;

static __thread sigjmp_buf jump;
static __thread volatile sig_atomic_t touching;
static __thread uint64_t words[WORDS];
static __thread uint64_t random_state, began;
static __thread struct thread *self;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static uint64_t draw(uint64_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return below ? random_state % below : 0;
}

/* --- evidence ------------------------------------------------------------------------------------ */

/* What is mapped at `address`, and right before and behind it, to standard error. */
static void tell_maps(uintptr_t address)
{
    char text[1 << 18];
    size_t length = 0;
    ssize_t got;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && (got = read(fd, text + length, sizeof text - 1 - length)) > 0)
        length += (size_t)got;
    close(fd);
    text[length] = 0;
    char *before = text, *at = text;
    for (char *line = text, *end; (end = strchr(line, '\n')); before = at, at = line = end + 1) {
        uintptr_t start = strtoul(line, &line, 16), stop = strtoul(line + 1, NULL, 16);
        if (address < stop) {
            for (int more = 0; more < 2 && end; more++, end = strchr(end + 1, '\n'))
                length = (size_t)(end - before);
            dprintf(2, "mapped around %#lx (%s):\n%.*s\n", address,
                    address < start ? "nothing there" : "there", (int)length, before);
            return;
        }
    }
}

/* Its entry in the page table, proc_pid_pagemap(5). */
static uint64_t entry_at(const uint8_t *address)
{
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pread(fd, &entry, sizeof entry, (off_t)((uintptr_t)address / 4096 * 8)) != sizeof entry)
        entry = 0;
    close(fd);
    return entry;
}

/* A signal of the life line (no address: si_code <= 0) ends the process as it should. */
static void on_signal(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (!touching || info->si_code <= 0) {
        if (info->si_code > 0) {
            dprintf(2, "signal %d at %p in thread %ld, last operation %d in slot %d, page %d\n", number, info->si_addr, syscall(SYS_gettid), self ? (int)self->op : -1,
                    self ? (int)self->slot : -1, self ? (int)self->page : -1);
            tell_maps((uintptr_t)info->si_addr);
        }
        signal(number, SIG_DFL);
        syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), number);
        return;
    }
    siglongjmp(jump, number);
}

/* `at`: where the page was looked for. */
static void report(int slot, uint64_t page, const uint8_t *at, int op, uint64_t found,
                   const struct look *before)
{
    struct page *held = &slots[slot].page[page];
    struct look now = snapshot(held);
    const uint8_t *states = slots[slot].states;
    uint64_t index = atomic_fetch_add(&board->wrong_begun, 1);
    if (index < WRONGS) {
        board->wrong[index] = (struct wrong){
            0, slot, page, op, found, now.shown, now.coming, (before ? before : &now)->shown,
            held->last_op, is_child, held->planted, held->seen, (before ? before : &now)->seq,
            now.seq, (uintptr_t)at, entry_at(at), states ? states[page] : NO_STATE};
        tell_maps((uintptr_t)at);
        atomic_thread_fence(memory_order_seq_cst);
        board->wrong[index].when = now_ns(); /* it is whole */
    }
    board->wrong_count++; /* last: the referee ends us */
}

static void begin_op(struct thread *mine, int op, int slot, uint64_t page)
{
    mine->op = op;
    mine->slot = slot;
    mine->page = page;
    mine->started = began = now_ns();
}

static void end_op(struct thread *mine)
{
    uint64_t end = now_ns();
    mine->started = 0;
    mine->done[mine->op]++;
    if (end - began < SLOW_NS)
        return;
    mine->slow[mine->slow_count % SLOW] = (struct slow){began, end, mine->slot, mine->op};
    mine->slow_count++;
}

/* --- one page ------------------------------------------------------------------------------------ */

static uint64_t word_of(const struct slot *slot, uint64_t page, uint64_t version)
{
    return slot->kind << 56 | version << 24 | (page + 1);
}

static uint8_t *address(const struct slot *slot, uint64_t page, int place)
{
    return (place == ATTIC ? slot->attic : slot->home) + page * slot->page_size;
}

/* Copy a page's words to `words`; the signal that came instead, or 0. */
static int fetch_words(struct slot *slot, const uint8_t *at)
{
    int number = sigsetjmp(jump, 0);
    if (number == 0) {
        touching = 1;
        for (uint64_t n = 0; n < slot->words; n++)
            words[n] = *(volatile const uint64_t *)(at + n * slot->step);
    }
    touching = 0;
    return number;
}

static int store_words(struct slot *slot, uint8_t *at, uint64_t word, uint64_t count)
{
    int number = sigsetjmp(jump, 0);
    if (number == 0) {
        touching = 1;
        for (uint64_t n = 0; n < count; n++)
            *(volatile uint64_t *)(at + n * slot->step) = word;
    }
    touching = 0;
    return number;
}

static void look_at(struct slot *slot, uint64_t number, int op, struct thread *mine)
{
    int place = slot->place[number];
    if (place >= TRANSIT)
        return;
    struct page *page = &slot->page[number];
    struct look before = snapshot(page);
    begin_op(mine, op, (int)(slot - slots), number);
    const uint8_t *at = address(slot, number, place);
    int met = fetch_words(slot, at);
    mine->accesses++;
    struct look after = snapshot(page);
    uint64_t found;
    enum verdict verdict =
        judge(met, words, slot->words, &before, &after, slot->place[number] == place, &found);
    if (verdict == WRONG)
        report((int)(slot - slots), number, at, op, found, &before);
    mine->undecided += verdict == UNDECIDED;
    mine->faulted += met == SIGBUS && verdict == RIGHT;
    if (verdict == RIGHT && !met && after.seq == before.seq && before.seq % 2 == 0)
        page->seen = 1;
    end_op(mine);
}

/* --- changes: the caller has the pages [first, first + count) alone ------------------------------ */

/* Take up to `count` pages that lie in one place; how many it were.  Pages of which it is not known
 * any more what a change does to them are only read. */
static uint64_t grab(struct slot *slot, uint64_t first, uint64_t count)
{
    uint64_t got = 0;
    int place = slot->place[first];
    if (place >= TRANSIT)
        return 0;
    while (got < count && first + got < slot->pages) {
        uint32_t free = 0;
        if (!atomic_compare_exchange_strong(&slot->page[first + got].busy, &free, 1))
            break;
        struct page *page = &slot->page[first + got];
        if (slot->place[first + got] != place || page->poor || page->planted) {
            page->busy = 0;
            break;
        }
        got++;
    }
    return got;
}

static void release(struct slot *slot, uint64_t first, uint64_t count)
{
    for (uint64_t n = first; n < first + count; n++)
        slot->page[n].busy = 0;
}

/* Whether nobody is known to have filled a page: it is still the source's. */
static int never_filled(const struct slot *slot, uint64_t number)
{
    return !slot->page[number].seen && slot->page[number].shown == word_of(slot, number, 0);
}

static void write_page(struct slot *slot, uint64_t number, int op, struct thread *mine)
{
    struct page *page = &slot->page[number];
    uint64_t old = page->shown;
    uint64_t word = word_of(slot, number, atomic_fetch_add(&next_version, 1) & 0xffffffff);
    uint8_t *at = op == ALIAS ? slot->alias + number * slot->page_size
                              : address(slot, number, slot->place[number]);
    begin_op(mine, op, (int)(slot - slots), number);
    begin_change(page, word, op == ALIAS && never_filled(slot, number) ? ZEROS : 0, op);
    int met = store_words(slot, at, word, slot->words);
    mine->accesses++;
    if (met && !(met == SIGBUS && old == BAD))
        report((int)(slot - slots), number, at, op, met == SIGBUS ? BAD : SIGSEGV, NULL);
    if (!met && old == BAD)
        report((int)(slot - slots), number, at, op, word, NULL);
    end_change(page, met ? old : word);
    if (!met && op == WRITE)
        page->seen = 1;
    end_op(mine);
}

/* Whether MADV_DONTNEED leaves a page of shared memory as it is: one that is in.  Under a budget those
 * that nobody wrote may have gone, or any if there is a spill file, and read zero from then on. */
static int keeps_page(const struct slot *slot, uint64_t number)
{
    const struct page *page = &slot->page[number];
    if (slot->budget && (slot->budget > 1 || page->shown == word_of(slot, number, 0)))
        return 0;
    return slot->shared && page->seen;
}

/* MADV_DONTNEED of shared memory: a page that was filled keeps its bytes, another one may or may
 * not have been filled around somebody's fault: whichever it is now, it stays. */
static void settle(struct slot *slot, uint64_t number)
{
    struct page *page = &slot->page[number];
    const uint8_t *at = address(slot, number, slot->place[number]);
    int met = fetch_words(slot, at);
    uint64_t found = met ? (met == SIGBUS ? BAD : SIGSEGV) : words[0];
    for (uint64_t n = 0; !met && n * slot->step < slot->page_size; n++)
        if (words[n] != found)
            found = SIGSEGV; /* torn: no word is that */
    if (found != page->shown && found != page->coming)
        report((int)(slot - slots), number, at, DROP, found, NULL);
    end_change(page, found);
    page->seen = 1;
}

/* The address space belongs to Python's thread unless it waits here (`stress_wait`, `stress_shut`,
 * `stress_join`): it maps and unmaps as it likes, and nobody may leave a hole in it then, for it
 * would map something there, which `plug` would cut out again.  And it belongs to fork: the
 * kernel may queue the event of a concurrent munmap or madvise before that of the fork whose child
 * has still got the page (docs/pager.md, "What is not promised"). */
static int enter_space(void)
{
    if (settled_space || forking)
        return 0;
    moving++;
    if (!settled_space && !forking)
        return 1;
    moving--;
    return 0;
}

/* The same for drops, which leave no hole. */
static int enter_drop(void)
{
    dropping++;
    if (!forking)
        return 1;
    dropping--;
    return 0;
}

static void plug(uint8_t *at, uint64_t length)
{
    if (mmap(at, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0) == MAP_FAILED)
        abort();
}

/* Have the pool promise its pages to a hole again: a mapping of the file does that for all that it
 * shows, and what it was promised outlives it.  It takes the place of the alias, for any other place
 * would be one that Python's thread may be given.  0: the pool is empty. */
static int reserve(struct slot *slot, uint64_t first, uint64_t count)
{
    uint64_t offset = first * slot->page_size, length = count * slot->page_size;
    if (mmap(slot->alias + offset, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, slot->fd,
             (off_t)offset) != MAP_FAILED)
        return 1;
    plug(slot->alias + offset, length); /* the old mapping may be gone */
    return 0;
}

static void drop(struct slot *slot, uint64_t first, uint64_t count, int op, struct thread *mine)
{
    uint64_t length = count * slot->page_size;
    uint8_t *at = address(slot, first, slot->place[first]);
    int hole = slot->huge && op != DROP;
    int keeps[RANGE], failed;
    if (!enter_drop())
        return;
    begin_op(mine, op, (int)(slot - slots), first);
    for (uint64_t n = 0; n < count; n++) {
        struct page *page = &slot->page[first + n];
        keeps[n] = op == DROP && keeps_page(slot, first + n);
        begin_change(page, keeps[n] ? page->shown : ZERO, hole ? SIGBUSES : 0, op);
    }
    if (op == PUNCH)
        failed = fallocate(slot->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           (off_t)(first * slot->page_size), (off_t)length);
    else
        failed = madvise(at, length, op == DROP ? MADV_DONTNEED : MADV_REMOVE);
    if (failed)
        report((int)(slot - slots), first, at, op, (uint64_t)errno, NULL);
    if (hole && !reserve(slot, first, count))
        for (uint64_t n = first; n < first + count; n++)
            slot->page[n].poor = 1;
    for (uint64_t n = first; n < first + count; n++) {
        if (op == DROP && slot->shared && !keeps[n - first])
            settle(slot, n);
        else
            end_change(&slot->page[n], keeps[n - first] ? slot->page[n].shown : ZERO);
    }
    end_op(mine);
    dropping--;
}

/* Where mremap failed: whether it has taken the page away all the same.  Of several mappings it
 * moves one after the other since Linux 6.17, and stops at the first that cannot be moved (one that
 * is registered, behind another).  mincore(2): ENOMEM where nothing is mapped. */
static int has_left(uint8_t *at)
{
    unsigned char in_core;
    return mincore(at, 1, &in_core) && errno == ENOMEM;
}

static void move(struct slot *slot, uint64_t first, uint64_t count, struct thread *mine)
{
    int from = slot->place[first], to = from == HOME ? ATTIC : HOME, failed;
    uint64_t length = count * slot->page_size;
    if (!enter_space())
        return;
    begin_op(mine, MOVE, (int)(slot - slots), first);
    for (uint64_t n = first; n < first + count; n++) {
        slot->place[n] = TRANSIT;
        begin_change(&slot->page[n], slot->page[n].shown, 0, MOVE);
    }
    failed = mremap(address(slot, first, from), length, length, MREMAP_MAYMOVE | MREMAP_FIXED,
                    address(slot, first, to)) == MAP_FAILED;
    mine->refused += (uint64_t)failed;
    for (uint64_t n = first; n < first + count; n++) {
        int moved = !failed || has_left(address(slot, n, from));
        /* Also of a move that failed the new place may have been cleared. */
        plug(address(slot, n, moved ? from : to), slot->page_size);
        slot->place[n] = (uint8_t)(moved ? to : from);
        end_change(&slot->page[n], slot->page[n].shown);
    }
    end_op(mine);
    moving--;
}

static void unmap(struct slot *slot, uint64_t first, uint64_t count, struct thread *mine)
{
    int from = slot->place[first];
    uint64_t length = count * slot->page_size;
    if (!enter_space())
        return;
    begin_op(mine, UNMAP, (int)(slot - slots), first);
    for (uint64_t n = first; n < first + count; n++) {
        slot->place[n] = TRANSIT;
        begin_change(&slot->page[n], slot->page[n].shown, 0, UNMAP);
    }
    if (munmap(address(slot, first, from), length))
        report((int)(slot - slots), first, address(slot, first, from), UNMAP, (uint64_t)errno, NULL);
    plug(address(slot, first, from), length);
    for (uint64_t n = first; n < first + count; n++) {
        slot->place[n] = GONE;
        end_change(&slot->page[n], slot->page[n].shown);
    }
    end_op(mine);
    moving--;
}

/* --- mistakes to plant: what the judge must not take for one of its three excuses ---------------- */

/* The table is not told.  0: nothing was planted in this page. */
static int plant_in(struct slot *slot, uint64_t number, struct thread *mine)
{
    struct page *page = &slot->page[number];
    uint64_t old = page->shown;
    if (old == BAD || ((plant == ZEROED || plant == HALF) && !never_filled(slot, number)))
        return 0;
    if (plant == STALE)
        write_page(slot, number, WRITE, mine);
    if (plant == LOST)
        move(slot, number, 1, mine);
    if (!enter_space())
        return 0;
    uint8_t *at = address(slot, number, slot->place[number]);
    uint8_t *alias = slot->alias + number * slot->page_size;
    page->planted = 1;
    switch ((enum plant)plant) {
    case STALE: /* a write is undone: what it showed before is back */
        store_words(slot, at, old, slot->words);
        break;
    case ZEROED: /* a page that nobody has touched yet has lost the source's bytes */
        if (!slot->shared)
            madvise(at, slot->page_size, MADV_DONTNEED);
        else
            (void)*(volatile const uint64_t *)alias;
        break;
    case HALF: /* a write through the alias has ended, and the rest of the page is not there */
        begin_change(page, word_of(slot, number, 1), ZEROS, ALIAS);
        store_words(slot, alias, page->coming, slot->words / 2);
        end_change(page, page->coming);
        break;
    case LOST: /* it was moved, and nothing is at the new place */
        plug(at, slot->page_size);
        break;
    case SIGBUSED: /* SIGBUS, whatever the pool has: nothing is behind the end of a file */
        if (mmap(at, slot->page_size, PROT_READ, MAP_SHARED | MAP_FIXED, empty_file, 0) ==
            MAP_FAILED)
            abort();
        break;
    case NONE:
        break;
    }
    moving--;
    return 1;
}

/* --- forks --------------------------------------------------------------------------------------- */

static int enter_slot(struct slot *slot)
{
    slot->users++;
    if (slot->open)
        return 1;
    slot->users--;
    return 0;
}

static uint64_t some_page(const struct slot *slot)
{
    uint64_t spent = now_ns() - slot->begun;
    uint64_t front = spent < slot->lasts ? slot->pages * spent / slot->lasts : slot->pages;
    uint64_t window = slot->pages < 256 ? 3 : 128;
    /* Half of the accesses where nobody was yet: a front that moves on, so that pages of the
     * source are left until the end. */
    uint64_t page = draw(2) ? front + draw(window) : draw(front + 1);
    return page < slot->pages ? page : draw(slot->pages);
}

/* A child has the table of private memory as it was; operations under way then never end. */
static int child_main(struct slot **held, int count, struct thread *mine)
{
    is_child = 1;
    forking = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    mine->tid = (uint64_t)getpid();
    for (int n = 0; n < CHILD_ACCESSES; n++) {
        struct slot *slot = held[draw((uint64_t)count)];
        uint64_t page = some_page(slot);
        look_at(slot, page, CHILD, mine);
        if (slot->shared || slot->page[page].busy || n % 4)
            continue;
        uint64_t got = grab(slot, page, 1);
        if (!got)
            continue;
        if (n % 8)
            write_page(slot, page, WRITE, mine);
        else
            drop(slot, page, 1, DROP, mine);
        look_at(slot, page, CHILD, mine);
    }
    return 0;
}

static void fork_child(struct thread *mine)
{
    struct slot *held[SLOTS];
    int count = 0, status;
    uint64_t last = last_fork, now = now_ns();
    if (now - last < FORK_PAUSE_NS || !atomic_compare_exchange_strong(&last_fork, &last, now))
        return;
    for (int n = 0; n < SLOTS; n++)
        if (slots[n].forks && enter_slot(&slots[n]))
            held[count++] = &slots[n];
    if (count) {
        forking++;
        while (moving || dropping)
            usleep(100);
        begin_op(mine, FORK, 0, 0);
        pid_t child = fork();
        if (child == 0)
            _exit(child_main(held, count, mine + THREADS));
        end_op(mine);
        forking--; /* its event was read */
        if (child < 0)
            mine->refused++;
        else if (waitpid(child, &status, 0) == child && status)
            report((int)(held[0] - slots), 0, held[0]->home, FORK, (uint64_t)status, NULL);
    }
    while (count--)
        held[count]->users--;
}

/* --- a thread ------------------------------------------------------------------------------------ */

static void change(struct slot *slot, uint64_t page, uint64_t dice, struct thread *mine)
{
    uint64_t got = grab(slot, page, dice < 800 ? 1 : 1 + draw(slot->pages < 256 ? 2 : RANGE));
    if (!got)
        return;
    if (plant && !draw(20) && plant_in(slot, page, mine)) {
        release(slot, page, got);
        return;
    }
    if (dice < 780)
        write_page(slot, page, WRITE, mine);
    else if (dice < 800)
        write_page(slot, page, slot->alias && slot->page[page].shown != BAD ? ALIAS : WRITE, mine);
    else if (dice < 900)
        drop(slot, page, got, DROP, mine);
    else if (dice < 935)
        drop(slot, page, got, slot->shared ? REMOVE : DROP, mine);
    else if (dice < 960) {
        /* Of a hole in a page that was never filled nobody can tell. */
        int filled = slot->shared && !slot->budget;
        for (uint64_t n = page; n < page + got; n++)
            filled = filled && slot->page[n].seen;
        drop(slot, page, got, filled ? PUNCH : DROP, mine);
    } else if (dice < 990)
        move(slot, page, got, mine);
    else
        unmap(slot, page, got > 2 ? 2 : got, mine);
    release(slot, page, got);
}

static void *thread_main(void *argument)
{
    struct thread *mine = &board->thread[(uintptr_t)argument & 0xff];
    self = mine; /* what a thread has of its own is mapped when it is first used: before anybody moves */
    random_state = (uint64_t)(uintptr_t)argument * 0x9e3779b97f4a7c15ull | 1;
    up++;
    mine->tid = (uint64_t)syscall(SYS_gettid);
    while (!board->stop) {
        struct slot *slot = &slots[draw(SLOTS)];
        uint64_t dice = draw(1000);
        if (!slot->open || !enter_slot(slot))
            continue;
        uint64_t page = some_page(slot);
        if (dice < 600)
            look_at(slot, page, READ, mine);
        else
            change(slot, page, dice, mine);
        slot->users--;
        if (dice == 0)
            fork_child(mine);
    }
    return NULL;
}

/* --- what Python calls --------------------------------------------------------------------------- */

/* `planted`: one of `enum plant`. */
void stress_start(void *shared_board, int count, uint64_t seed, int planted)
{
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};
    board = shared_board;
    plant = planted;
    empty_file = memfd_create("stress-empty", MFD_CLOEXEC);
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    for (running = 0; running < count; running++)
        pthread_create(&threads[running], NULL, thread_main,
                       (void *)(uintptr_t)(seed << 8 | (unsigned)running));
    while (up < count)
        usleep(100);
}

/* Nobody has a hole in the address space any more, until it is left to the threads again. */
static void settle_space(void)
{
    settled_space = 1;
    while (moving)
        usleep(100);
}

void stress_join(void)
{
    board->stop = 1;
    settled_space = 0;
    while (running)
        pthread_join(threads[--running], NULL);
    settle_space();
}

/* Leave the address space to the threads until there is something to read, or time is up. */
int stress_wait(int fd, int timeout_ms)
{
    struct pollfd asked = {.fd = fd, .events = POLLIN};
    settled_space = 0;
    int ready = poll(&asked, 1, timeout_ms);
    settle_space();
    return ready > 0;
}

static void *table(uint64_t length, int shared)
{
    void *at = mmap(NULL, length, PROT_READ | PROT_WRITE,
                    (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        abort();
    return at;
}

/* Hand a mapping over.  `fd`: the file behind shared memory, or -1.  `states`: the pager's of its
 * pages, or NULL.  `bad_every`: of so many pages
 * of the source one cannot be read (0: none).  `lasts`: ns until the front has passed all pages.
 * `budget`: as in the slot; then nobody may touch the memory but by its mapping, so there is no
 * alias, and no hole is made by the descriptor, of which nobody could tell. */
void stress_open(int index, uint8_t *home, int fd, const uint8_t *states, uint64_t page_size,
                 uint64_t pages, uint64_t kind, uint64_t bad_every, uint64_t lasts, int forks,
                 int budget)
{
    struct slot *slot = &slots[index];
    uint64_t length = page_size * pages;
    int shared = fd >= 0;
    uint8_t *room = mmap(NULL, length + page_size, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint8_t *alias = shared && !budget ? mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : NULL;
    if (room == MAP_FAILED || alias == MAP_FAILED)
        abort();
    slot->home = home;
    slot->states = states;
    slot->attic = room + (page_size - (uintptr_t)room % page_size) % page_size;
    munmap(room, (size_t)(slot->attic - room));
    munmap(slot->attic + length, (size_t)(room + page_size - slot->attic));
    slot->alias = alias;
    slot->page_size = page_size;
    slot->pages = pages;
    slot->length = length;
    slot->step = page_size > 4096 ? page_size / WORDS : 8;
    slot->words = page_size / slot->step;
    slot->huge = shared && page_size > 4096;
    slot->kind = kind;
    slot->begun = now_ns();
    slot->lasts = lasts;
    slot->fd = fd;
    slot->shared = shared;
    slot->forks = forks;
    slot->budget = budget;
    slot->page = table(pages * sizeof(struct page), shared);
    slot->place = table(pages, 0);
    for (uint64_t n = 0; n < pages; n++) {
        int bad = bad_every && n % bad_every == bad_every / 2;
        slot->page[n].shown = slot->page[n].coming = bad ? BAD : word_of(slot, n, 0);
    }
    slot->open = 1;
}

/* No more operations begin; wait for those under way. */
void stress_shut(int index)
{
    slots[index].open = 0;
    settled_space = 0;
    while (slots[index].users)
        usleep(1000);
    settle_space();
}

/* Let go of what lies in the attic; the home is the caller's. */
void stress_clear(int index)
{
    struct slot *slot = &slots[index];
    munmap(slot->attic, slot->length);
    if (slot->alias)
        munmap(slot->alias, slot->length);
    munmap(slot->page, slot->pages * sizeof(struct page));
    munmap((void *)slot->place, slot->pages);
}

uint64_t stress_board_size(void)
{
    return sizeof(struct board);
}

/* --- what tests call ------------------------------------------------------------------------------ */

void stress_move(int index, int first, uint64_t count)
{
    settled_space = 0;
    move(&slots[index], (uint64_t)first, count, &board->thread[0]);
    settle_space();
}

void stress_read(int index, uint64_t page)
{
    look_at(&slots[index], page, READ, &board->thread[0]);
}

void stress_look(struct page *page, struct look *look)
{
    *look = snapshot(page);
}

void stress_begin_change(struct page *page, uint64_t coming, uint64_t besides)
{
    begin_change(page, coming, besides, WRITE);
}

void stress_end_change(struct page *page, uint64_t shown)
{
    end_change(page, shown);
}

int stress_judge(int signal_met, const uint64_t *seen, uint64_t count, const struct look *before,
                 const struct look *after)
{
    uint64_t found;
    return judge(signal_met, seen, count, before, after, 1, &found);
}
