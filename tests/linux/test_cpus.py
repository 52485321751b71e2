"""Where threads are and what they used, as /proc tells; what cannot be seen is no error."""

from __future__ import annotations

import os
import threading

from helpers.skips import absent
from userfault.linux import cpus

NOBODY_HAS_IT = 1 << 30  # above the kernel's largest thread id


def test_a_bound_thread_is_seen_on_its_cpu() -> None:
    for cpu in cpus.allowed():
        found: list[int | None] = []

        def look(cpu: int = cpu, found: list[int | None] = found) -> None:
            assert cpus.move(frozenset({cpu}))
            found.append(cpus.cpu_of(threading.get_native_id()))
            found.append(*cpus.allowed(threading.get_native_id()))

        thread = threading.Thread(target=look, name="a) 1 2 (name")
        thread.start()
        thread.join()
        assert found == [cpu, cpu]


def test_time_that_was_run_is_counted() -> None:
    ran, _ = cpus.run_and_wait(0)
    if not ran:
        absent("this kernel does not count run times (CONFIG_SCHED_INFO)")
    sum(range(1_000_000))
    after, waited = cpus.run_and_wait(threading.get_native_id())
    assert after > ran
    assert waited >= 0


def test_a_thread_that_does_not_exist_is_not_seen() -> None:
    assert cpus.cpu_of(NOBODY_HAS_IT) is None
    assert cpus.run_and_wait(NOBODY_HAS_IT) == (0.0, 0.0)
    assert cpus.allowed(NOBODY_HAS_IT) == frozenset()


def test_a_cpu_that_is_not_there_is_refused_and_nothing_changes() -> None:
    before = cpus.allowed()
    assert not cpus.move(frozenset({1 << 20}))
    assert not cpus.move(frozenset())
    assert not cpus.move(frozenset({1 << 70}))
    assert cpus.allowed() == before


def test_thread_ids_are_shared_within_a_pid_namespace() -> None:
    assert cpus.shares_thread_ids(os.getpid())
    assert not cpus.shares_thread_ids(NOBODY_HAS_IT)
    assert not cpus.shares_thread_ids(0)
    assert not cpus.shares_thread_ids(-1)
