"""A snapshot, opened in its store, or in the second one where that does not answer.

A name means one image for ever, in a mirror too; what is read from there is what its manifest's
digest says.  A store that answers is believed: also that it has no such snapshot, or a damaged one.
"""

from __future__ import annotations

from userfault.kernel.errors import UserfaultError
from userfault.kernel.names import shown
from userfault.snapshot.errors import StoreError
from userfault.snapshot.serving.image import Image, open_image
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.stores.urls import is_remote_url


def open_either(url: str, second: str | None, name: str) -> Image:
    """The snapshot `name` of the store at `url`; where that hangs for a second, of `second`.

    Raises as `open_image` does, of the first store.
    """
    if second is None or not is_remote_url(url):
        return open_image(open_objects(url), name)
    from userfault.snapshot.stores.remote import HASTY, RemoteObjects  # noqa: PLC0415  # see open_objects

    try:
        return open_image(RemoteObjects.open(url, HASTY), name)
    except StoreError as error:
        cause = error.cause or error.what
    try:
        found = open_image(open_objects(second), name)
    except UserfaultError:
        return open_image(open_objects(url), name)  # with all the patience there is
    told = map(shown, (url, cause, name, second))
    import logging  # noqa: PLC0415  # 3 ms of a start, for what is rare

    logging.getLogger("userfault").warning(
        "%s does not answer (%s): snapshot %s is that of %s", *told
    )
    return found
