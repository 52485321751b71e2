/* What each page may show, and the judge of what was seen there.
 *
 * Every page is made of equal words, one in each `step` bytes:
 *
 *     word = kind of the mapping << 56 | version << 24 | page + 1      (0: a page of zeros)
 *
 * Version 0 is the source's.  Of each page the table says which word it shows, and, while a change
 * of it is under way, which it is about to show.  Readers take no lock: they look at the table
 * before and after, and every word that they saw must be one that the page may have shown in
 * between.  Whoever changes a page has it alone (`busy`), but never keeps readers away.
 *
 * Three things that are no faults look like one:
 *
 * - A write through the alias of a page that was never filled.  The kernel makes a page of zeros and
 *   then the words are written, so a reader may meet zeros until the change has ended, but not
 *   later (`ZEROS` in `besides`).
 * - A hole in a huge page gives its place in the pool back.  Until it has one again, the pool may be
 *   empty, for others use it too, and then whoever touches the page gets SIGBUS (`SIGBUSES`).
 * - The same for as long as it gets none: the page is `poor`, and is only read from then on.
 */
#pragma once
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic uint64_t shared64;

#define ZERO 0ull
#define BAD UINT64_MAX /* not a word: every access raises SIGBUS */
#define WORDS 2048

enum besides { ZEROS = 1, SIGBUSES = 2 };
enum verdict { RIGHT, WRONG, UNDECIDED };

struct page {
    shared64 seq; /* odd: a change is under way; (seq + 1) / 2 is its number */
    shared64 shown, coming;
    shared64 besides[2]; /* of the last change of even and of odd number: seq << 2 | what else */
    _Atomic uint32_t busy, seen, last_op, poor, planted;
};

struct look {
    uint64_t seq, shown, coming, besides[2], poor;
};

static inline struct look snapshot(struct page *page)
{
    struct look look;
    atomic_thread_fence(memory_order_seq_cst); /* what was read before was read before this */
    do {
        look.seq = page->seq;
        look.shown = page->shown;
        look.coming = page->coming;
        look.besides[0] = page->besides[0];
        look.besides[1] = page->besides[1];
        look.poor = page->poor;
    } while (page->seq != look.seq);
    atomic_thread_fence(memory_order_seq_cst);
    return look;
}

/* All that a reader of this change needs is there before `seq` says that it has begun.  `besides`
 * has two places since the next change may be about to begin when a reader looks again. */
static inline void begin_change(struct page *page, uint64_t coming, uint64_t besides, int op)
{
    uint64_t seq = page->seq + 1;
    page->last_op = (uint32_t)op;
    page->coming = coming;
    page->besides[(seq >> 1) & 1] = seq << 2 | besides;
    page->seq = seq;
    atomic_thread_fence(memory_order_seq_cst);
}

static inline void end_change(struct page *page, uint64_t shown)
{
    atomic_thread_fence(memory_order_seq_cst);
    page->shown = shown;
    page->coming = shown;
    page->seq++;
}

/* Whether the page showed words between two looks that neither of them has.  Two changes after a
 * look between changes are too many if the second has not ended: its word is in `shown` a moment
 * before `seq` is even, and then nobody has the word of the first.  A look within a change has the
 * word that comes. */
static inline int too_far_apart(const struct look *before, const struct look *after)
{
    return after->seq - before->seq > 2 + (before->seq & 1);
}

static inline int among(uint64_t word, const struct look *a, const struct look *b)
{
    return word == a->shown || word == a->coming || word == b->shown || word == b->coming;
}

/* Whether a change that was under way between two looks may show `what` besides. */
static inline int besides(enum besides what, const struct look *before, const struct look *after)
{
    const uint64_t marks[] = {before->besides[0], before->besides[1],
                              after->besides[0], after->besides[1]};
    for (int n = 0; n < 4; n++) {
        uint64_t seq = marks[n] >> 2;
        if (marks[n] & what && before->seq <= seq && seq <= after->seq)
            return 1;
    }
    return 0;
}

/* Whether a page may have raised SIGBUS between two looks. */
static inline int may_raise(const struct look *before, const struct look *after)
{
    return among(BAD, before, after) || before->poor || after->poor ||
           besides(SIGBUSES, before, after);
}

static inline int may_show(uint64_t word, const struct look *before, const struct look *after)
{
    if (word == BAD)
        return 0;
    return among(word, before, after) || (word == ZERO && besides(ZEROS, before, after));
}

/* Judge what was met between two looks: a signal, or else `count` words.  `lies`: it lies where it
 * was looked for.  `*found`: what was wrong. */
static inline enum verdict judge(int signal_met, const uint64_t *words, uint64_t count,
                                 const struct look *before, const struct look *after, int lies,
                                 uint64_t *found)
{
    if (too_far_apart(before, after))
        return UNDECIDED;
    if (signal_met == SIGSEGV) { /* right on a page that was moved or unmapped meanwhile */
        *found = SIGSEGV;
        return after->seq == before->seq && before->seq % 2 == 0 && lies ? WRONG : UNDECIDED;
    }
    if (signal_met) {
        *found = BAD;
        return may_raise(before, after) ? RIGHT : WRONG;
    }
    for (uint64_t n = 0; n < count; n++)
        if (!may_show(words[n], before, after)) {
            *found = words[n];
            return WRONG;
        }
    return RIGHT;
}
