"""The handshake: features are granted whole or refused by name."""

from __future__ import annotations

import pytest

from helpers.skips import absent
from helpers.world import World
from userfault.kernel.errors import FeatureMissing, KernelError
from userfault.kernel.modes import Feature, Ioctls
from userfault.linux.uffd import LiveUserfaultfd, _handshake, offer


def test_a_context_has_what_was_asked_and_tells_what_the_kernel_offers(world: World) -> None:
    wanted = Feature.EVENT_REMOVE | Feature.THREAD_ID

    made = world.userfaultfd(wanted)

    assert made.features == wanted
    assert made.offered == offer()[0]
    assert wanted in made.offered


def test_every_feature_of_6_1_is_offered() -> None:
    assert offer()[0] & Feature(0x1FFF) == Feature(0x1FFF)


def test_the_general_ioctls_are_api_register_and_unregister() -> None:
    general = offer()[1]

    assert Ioctls.API | Ioctls.REGISTER | Ioctls.UNREGISTER in general
    assert (Ioctls.SET_MODE in general) is (Feature.RWP_ASYNC in offer()[0])


def test_each_missing_feature_is_named(world: World) -> None:
    newer = Feature.RWP | Feature.RWP_ASYNC
    if offer()[0] & newer:
        absent("this kernel has every feature that this release knows")

    with pytest.raises(FeatureMissing) as caught:
        world.userfaultfd(newer | Feature.THREAD_ID)

    assert caught.value.missing == ["RWP", "RWP_ASYNC"]
    assert "features RWP, RWP_ASYNC" in str(caught.value)
    assert "THREAD_ID" in caught.value.cause
    assert "newer kernel" in caught.value.cure


def test_optional_features_are_taken_where_offered(world: World) -> None:
    made = world.userfaultfd(Feature.THREAD_ID, optional=Feature.EXACT_ADDRESS | Feature.RWP)

    assert made.features == (
        Feature.THREAD_ID | Feature.EXACT_ADDRESS | (Feature.RWP & made.offered)
    )


def test_a_second_handshake_is_refused_with_its_cause(world: World) -> None:
    made = world.userfaultfd()

    with pytest.raises(KernelError) as caught:
        _handshake(made.fileno(), Feature.THREAD_ID)

    assert caught.value.errno == 22
    assert "features THREAD_ID" in str(caught.value)
    assert "second handshake" in caught.value.cause


def test_set_mode_is_refused_without_the_feature_on_every_kernel(world: World) -> None:
    made = world.userfaultfd()

    with pytest.raises(KernelError, match=r"UFFDIO_SET_MODE failed with EINVAL"):
        made.set_mode(enable=Feature.RWP_ASYNC)


def test_set_mode_switches_rwp_async_where_the_kernel_has_it(world: World) -> None:
    if Feature.RWP_ASYNC not in offer()[0]:
        with pytest.raises(KernelError, match=r"UFFDIO_SET_MODE failed with EINVAL"):
            world.userfaultfd().set_mode()
        return
    made = world.userfaultfd(Feature.RWP)

    made.set_mode(enable=Feature.RWP_ASYNC)
    made.set_mode(disable=Feature.RWP_ASYNC)


def test_a_closed_context_is_closed_once(world: World) -> None:
    made = world.userfaultfd()

    with made:
        pass
    made.close()

    assert made.fileno() == -1
    assert isinstance(made, LiveUserfaultfd)
