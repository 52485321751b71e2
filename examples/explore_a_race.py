"""A scenario of one's own, under every schedule: COPY of a page against munmap of it.

userfault explore examples/explore_a_race.py
"""

from __future__ import annotations

from userfault.check.explore import World, explored, scenario


@scenario()
def copy_against_munmap(world: World) -> None:
    """A thread reads a missing page while it is copied in and unmapped."""
    area = world.map("anon")
    uffd = world.uffd(area)
    world.task("reader", lambda me: me.read(area[0]), may_wait=True)
    world.task("handler", lambda me: me.copy(uffd, area[0], b"page"))
    world.task("unmapper", lambda me: me.munmap(area[0], area.length))


def main() -> None:
    """What the command does, as a call."""
    found = explored(copy_against_munmap)
    print(f"{found.schedules} kinds of schedules, {found.violation or 'nothing violated'}")
    for outcome, schedules in sorted(found.outcomes.items()):
        print(f"{schedules:4}  " + ", ".join(f"{name}: {value}" for name, value in outcome))


if __name__ == "__main__":
    main()
