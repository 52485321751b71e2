"""guest_memfd: filled from a mapping and from the guest's side at once, and made private.

userfaultfd serves guest_memfd in the profile `next` alone: no released kernel does.
"""

from __future__ import annotations

from userfault.check.explore.building.caller import Caller
from userfault.check.explore.building.calls_guest import MISSING
from userfault.check.explore.building.scenario import scenario
from userfault.check.explore.building.world import World
from userfault.check.explore.scenarios.expecting import WAITS, both, only
from userfault.check.explore.scenarios.kinds import GUEST, WITH_GUESTS
from userfault.check.explore.scenarios.serving import copied, served
from userfault.kernel.memtypes import BASE_PAGE as PAGE
from userfault.kernel.modes import Mode

_ZEROS = b"\0\0\0"


@scenario(group="guest", kernels=WITH_GUESTS)
def guest_fault_and_copy(world: World) -> None:
    """A guest touches what its host copies in: one of them makes the page, and both see it."""
    area = world.map(GUEST)
    uffd = world.uffd(area)
    vm = world.guest(area)
    guest = world.task("guest", lambda me: me.guest_read(vm, 0, 3))
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    copier = world.task("handler", lambda me: copied(me, uffd, area[0], b"new", PAGE))
    only(world, guest, b"new", _ZEROS)
    only(world, reader, b"new", _ZEROS, WAITS)
    bytes_of = {PAGE: b"new", "EEXIST": _ZEROS}
    both(world, "two pages", lambda: reader.value in (None, bytes_of.get(copier.value)))


@scenario(group="guest", kernels=WITH_GUESTS)
def guest_exit_and_copy(world: World) -> None:
    """A guest stops at pages that are not there: it sees the copied bytes, or is stopped."""
    area = world.map(GUEST)
    uffd = world.uffd(area)
    vm = world.guest(area, exit_on_missing=True)
    guest = world.task("guest", lambda me: me.guest_read(vm, 0, 3))
    reader = world.task("reader", lambda me: me.read(area[0], 3))
    world.task("handler", lambda me: me.copy(uffd, area[0], b"new"))
    only(world, guest, b"new", MISSING)
    only(world, reader, b"new")


@scenario(group="guest", kernels=WITH_GUESTS)
def guest_write_and_continue(world: World) -> None:
    """A guest makes a page that its host then maps with CONTINUE: the host sees its bytes."""
    area = world.map(GUEST)
    uffd = world.uffd(area, mode=Mode.MISSING | Mode.MINOR)
    vm = world.guest(area)

    def serve(me: Caller) -> object:
        done = me.continue_(uffd, area[0])
        return copied(me, uffd, area[0], b"new", PAGE) if done == "EFAULT" else done

    world.task("guest", lambda me: me.guest_write(vm, 0, b"g"))
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    world.task("handler", serve)
    only(world, reader, b"g\0\0", b"gew", b"new", _ZEROS, WAITS)


@scenario(group="guest", kernels=WITH_GUESTS)
def guest_and_punch(world: World) -> None:
    """A guest reads a page that gets a hole: old bytes or fresh ones, never a freed page."""
    area = world.map(GUEST)
    world.store(area[0], b"old")
    file = world.open(area.file)
    vm = world.guest(area)

    def twice(me: Caller) -> object:
        return [me.guest_read(vm, 0, 3), me.guest_read(vm, 0, 3)]

    def punch_and_read(me: Caller) -> object:
        me.punch(file, 0)
        return me.guest_read(vm, 0, 3)

    guest = world.task("guest", twice)
    puncher = world.task("puncher", punch_and_read)
    legal = ([b"old", b"old"], [b"old", _ZEROS], [_ZEROS, _ZEROS])
    both(world, "old bytes came back", lambda: guest.value in legal)
    only(world, puncher, _ZEROS)


@scenario(group="guest", kernels=WITH_GUESTS)
def guest_punch_and_copy(world: World) -> None:
    """A guest, a hole and a copy of one page: one page in the end, or none."""
    area = world.map(GUEST)
    uffd = world.uffd(area)
    file = world.open(area.file)
    vm = world.guest(area)
    guest = world.task("guest", lambda me: me.guest_read(vm, 0, 3))
    copier = world.task("handler", lambda me: me.copy(uffd, area[0], b"new"))
    world.task("puncher", lambda me: me.punch(file, 0))
    only(world, guest, b"new", _ZEROS)
    only(world, copier, PAGE, "EEXIST")


@scenario(group="guest", kernels=WITH_GUESTS)
def emulation_and_handler(world: World) -> None:
    """KVM itself reads guest memory: a message is sent for it, and it gets the copied bytes."""
    area = world.map(GUEST)
    uffd = world.uffd(area)
    vm = world.guest(area)
    kvm = world.task("kvm", lambda me: me.emulate(vm, 0, 3))
    guest = world.task("guest", lambda me: me.guest_read(vm, 0, 3))
    world.task("handler", lambda me: served(me, uffd, area), may_wait=True)
    only(world, guest, b"new", _ZEROS)
    only(world, kvm, b"new", _ZEROS)


@scenario(group="guest", kernels=WITH_GUESTS)
def conversion_and_copy(world: World) -> None:
    """A page becomes the guest's alone while it is copied in: EFAULT, or it was there before."""
    area = world.map(GUEST)
    uffd = world.uffd(area)
    vm = world.guest(area)
    copier = world.task("handler", lambda me: copied(me, uffd, area[0], b"new", PAGE))
    world.task("converter", lambda me: me.convert(vm, 0, private=True))
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    only(world, copier, PAGE, "EFAULT", "ENOMEM", "EEXIST")
    only(world, reader, b"new", "SIGBUS", WAITS)
    both(world, "a host sees a private page", lambda: world.peek(area[0]) is None)


@scenario(group="guest", kernels=WITH_GUESTS)
def conversion_and_copy_and_guest(world: World) -> None:
    """A page becomes private while its host fills and its guest touches it: one page, unmapped."""
    area = world.map(GUEST)
    uffd = world.uffd(area)
    vm = world.guest(area)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"new"))
    world.task("converter", lambda me: me.convert(vm, 0, private=True))
    guest = world.task("guest", lambda me: me.guest_read(vm, 0, 3))
    only(world, guest, b"new", _ZEROS)
    both(world, "a host sees a private page", lambda: world.peek(area[0]) is None)


@scenario(group="guest", kernels=WITH_GUESTS)
def conversion_and_continue(world: World) -> None:
    """A page becomes private while it is mapped with CONTINUE: EFAULT, and no host sees it."""
    area = world.map(GUEST)
    world.store(area[0], b"old")
    alias = world.map(file=area.file)
    uffd = world.uffd(alias, mode=Mode.MINOR)
    vm = world.guest(area)
    handler = world.task("handler", lambda me: me.continue_(uffd, alias[0]))
    world.task("converter", lambda me: me.convert(vm, 0, private=True))
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    only(world, handler, PAGE, "EFAULT")
    only(world, reader, b"old", "SIGBUS")
    both(
        world,
        "a host sees a private page",
        lambda: world.peek(area[0]) is None and world.peek(alias[0]) is None,
    )


@scenario(group="guest", kernels=WITH_GUESTS)
def conversion_there_and_back(world: World) -> None:
    """A page becomes private and shared again while it is copied in: its bytes, or EFAULT."""
    area = world.map(GUEST)
    uffd = world.uffd(area)
    vm = world.guest(area)

    def convert(me: Caller) -> object:
        return [me.convert(vm, 0, private=True), me.convert(vm, 0, private=False)]

    copier = world.task("handler", lambda me: copied(me, uffd, area[0], b"new", PAGE))
    world.task("converter", convert)
    reader = world.task("reader", lambda me: me.read(area[0], 3), may_wait=True)
    only(world, copier, PAGE, "EFAULT", "ENOMEM", "EEXIST")
    only(world, reader, b"new", "SIGBUS", WAITS)


@scenario(group="guest", kernels=WITH_GUESTS)
def conversion_and_write(world: World) -> None:
    """A page becomes private while its host writes it: before, or SIGBUS; then unmapped."""
    area = world.map(GUEST)
    world.store(area[0], b"old")
    vm = world.guest(area)
    writer = world.task("writer", lambda me: me.write(area[0], b"new"))
    world.task("converter", lambda me: me.convert(vm, 0, private=True))
    guest = world.task("guest", lambda me: me.guest_read(vm, 0, 3))
    only(world, writer, 0, "SIGBUS")
    only(world, guest, b"old", b"new")
    both(world, "a host sees a private page", lambda: world.peek(area[0]) is None)
