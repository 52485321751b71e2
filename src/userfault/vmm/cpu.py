"""One virtual CPU in a thread of its own: run, pause, go on.

A pause ends KVM_RUN by a signal that is blocked everywhere but in KVM_RUN, so that it is never
lost and no handler sees it (KVM_SET_SIGNAL_MASK).  A CPU that waits for a page is paused once that
has come; since 6.2 at once, where KVM waits interruptibly.
"""

from __future__ import annotations

import errno
import signal
import threading
import time

from userfault.kernel.errors import UsageError
from userfault.linux.kvm import Exit, VirtualCpu
from userfault.uapi import kvm as abi
from userfault.vmm import layout, program
from userfault.vmm.errors import GuestError

_KICK = signal.SIGRTMAX - 2
# What KVM sends for a page that is poisoned; it tries that page again until a signal ends KVM_RUN
# (kvm_send_hwpoison_signal in arch/x86/kvm/mmu/mmu.c; measured on 6.18).
_GIVEN_UP = signal.SIGBUS
_KICK_EVERY_S = 0.05


class Cpu:
    """A CPU: idle, or at work on a program; running, or paused.

    Made paused and idle.  `changed` is that of its machine, notified whenever a CPU stands still.
    Methods may be called by any thread; registers only while it is paused.
    """

    def __init__(
        self, number: int, kvm: VirtualCpu, changed: threading.Condition, *, user: bool
    ) -> None:
        self.number = number
        self.kvm = kvm
        self.failure: GuestError | None = None
        self._busy = False
        self._wanted = False  # whether it is to run
        self._inside = False  # whether it may be in KVM_RUN
        self._closed = False
        self._changed = changed
        self._user = user
        self._reset()
        kvm.unblock_while_running({_KICK, _GIVEN_UP})
        self._thread = threading.Thread(target=self._work, name=f"vcpu-{number}", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether its program has not ended."""
        return self._busy

    @property
    def thread_id(self) -> int:
        """Of its thread, as messages of a userfaultfd tell it."""
        return self._thread.native_id or 0

    @property
    def running(self) -> bool:
        """Whether it is to run."""
        return self._wanted

    def begin(self, registers: dict[str, int], entry: int) -> None:
        """Start a program at `entry`; it runs once the CPU does."""
        self._at_rest("begin()")
        if self._busy and self.failure is None:
            raise UsageError(
                f"CPU {self.number} is at work", cause="its program has not ended", cure="wait()"
            )
        self._reset()  # a triple fault leaves nobody knows what of it (AMD APM, 15.14.3)
        self.kvm.set_registers(layout.start(entry, registers, user=self._user))
        self._busy, self.failure = True, None

    def state(self) -> tuple[bool, dict[str, bytes]]:
        """Whether it is at work, and its registers as KVM has them."""
        self._at_rest("state()")
        return self._busy, self.kvm.state()

    def set_state(self, busy: bool, kept: dict[str, bytes]) -> None:
        """Go on where another was."""
        self._at_rest("set_state()")
        self.kvm.set_state(kept)
        self._user = layout.in_user_mode(self.kvm.system_registers())
        registers = self.kvm.registers()
        registers["rflags"] = layout.flags(registers["rflags"], user=self._user)
        self.kvm.set_registers(registers)
        self._busy, self.failure = busy, None

    def resume(self) -> None:
        """Run."""
        with self._changed:
            self._wanted = True
            self._changed.notify_all()

    def ask_to_pause(self) -> None:
        """Stop soon; `wait_paused` waits for it."""
        with self._changed:
            self._wanted = False
            self._kick()

    def wait_paused(self, deadline: float) -> bool:
        """Whether it stands still before `deadline` (as time.monotonic tells)."""
        with self._changed:
            while self._inside:
                self._kick()
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, _KICK_EVERY_S))
        return True

    def close(self) -> None:
        """End the thread (the CPU is paused), and let go of the CPU."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self.kvm.close()

    def _reset(self) -> None:
        before = self.kvm.system_registers()
        self.kvm.set_system_registers(layout.system_registers(before, user=self._user))

    def _kick(self) -> None:
        if self._inside:
            signal.pthread_kill(self._thread.ident or 0, _KICK)

    def _at_rest(self, what: str) -> None:
        if self._inside or self._wanted:
            raise UsageError(
                f"{what} of a CPU that runs", cause="its registers change", cure="pause() first"
            )

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {_KICK, _GIVEN_UP})
        while self._next():
            failure, done = self._run()
            signal.sigtimedwait({_KICK}, 0)
            with self._changed:
                if failure is not None:
                    self.failure, self._wanted = failure, False
                self._busy = self._busy and not done
                self._inside = False
                self._changed.notify_all()

    def _run(self) -> tuple[GuestError | None, bool]:
        """Run until something happens: what is wrong, and whether the program has ended."""
        try:
            ended = self.kvm.run()
            if ended.reason == abi.KVM_EXIT_IO and ended.port == program.PORT:
                self.kvm.complete()
                return None, True
            return self._stopped(ended), False
        except OSError as error:
            return self._refused(error), False

    def _next(self) -> bool:
        """Wait until there is something to run; False once it is closed."""
        with self._changed:
            while not (self._wanted and self._busy) and not self._closed:
                self._changed.wait()
            self._inside = not self._closed
            return self._inside

    def _refused(self, error: OSError) -> GuestError | None:
        if error.errno == errno.EINTR and signal.sigtimedwait({_GIVEN_UP}, 0) is None:
            return None
        if error.errno in (errno.EFAULT, errno.EINTR):
            told = "EFAULT" if error.errno == errno.EFAULT else "SIGBUS"
            return GuestError(
                self.number,
                cause=f"KVM_RUN: {told}: the host has no memory where the guest touched it, or gave"
                " the page up (poison)",
                cure="see what the pager says of the source",
            )
        return GuestError(
            self.number,
            cause=f"KVM_RUN: {errno.errorcode.get(error.errno or 0, error.errno)}",
            cure="check the kernel log for what KVM says",
        )

    def _stopped(self, ended: Exit) -> GuestError | None:
        at = self.kvm.registers()["rip"]
        if ended.reason == abi.KVM_EXIT_INTR:
            return None
        if ended.reason == abi.KVM_EXIT_SHUTDOWN:
            cause = f"a triple fault at {at:#x}: an exception, and no handler of the guest for it"
            cure = "mend the guest's program"
        elif ended.reason == abi.KVM_EXIT_MMIO:
            cause = (
                f"it touched guest address {ended.address:#x} at {at:#x}, and has no memory there"
            )
            cure = "give the machine more memory, or have the guest touch less"
        else:
            cause = f"KVM_RUN returned with reason {ended.reason}, {ended.detail:#x}, at {at:#x}"
            cure = "check the kernel log for what KVM says"
        return GuestError(self.number, cause=cause, cure=cure)
