"""Stores behind a network, through `obstore`: S3 and what speaks it, GCS, Azure, HTTP(S) read-only.

Credentials come from the environment that each service's own tools read, plus AWS's shared files
and ~/.netrc for HTTP; they are in no URL, and `redact` keeps them out of every error.

Each request is retried by obstore on 5xx, lost connections and timeouts, with exponential backoff
and jitter, within `Patience`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from userfault.kernel.errors import Unavailable, UsageError, UserfaultError
from userfault.kernel.names import shown
from userfault.snapshot.errors import AlreadyThere, NoSuchObject, StoreError
from userfault.snapshot.stores import aws, credentials
from userfault.snapshot.stores.objects import (
    Listed,
    check_key,
    check_prefix,
    check_size,
    checked_keys,
)
from userfault.snapshot.stores.redact import readable
from userfault.snapshot.stores.urls import scheme_of

try:
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError
    from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store
except ImportError as error:
    raise Unavailable(
        "remote stores need the package obstore",
        cause=str(error),
        cure="pip install 'userfault[remote]'",
    ) from None

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_log = logging.getLogger("userfault")

# Some services answer "I do not have that" to a conditional write in these words.
_NOT_IMPLEMENTED = ("501", "NotImplemented")
# A request of the service's API for many deletions takes 1000 keys (S3).
_DELETE_AT_ONCE = 1000
_BODIES = 3


class _Runtime:
    """obstore's threads: a child of fork(2) has none of them, and would wait for ever."""

    used = False
    lost = False

    @classmethod
    def use(cls) -> None:
        """Raise StoreError in a process whose parent had used it before the fork."""
        if cls.lost:
            raise StoreError(
                "remote stores cannot be used in this process",
                cause="it was forked from one that had used them",
                cure="start it anew instead (multiprocessing's spawn or forkserver, subprocess)",
            )
        cls.used = True

    @classmethod
    def forked(cls) -> None:
        """Note a fork, in the child."""
        cls.lost = cls.used


os.register_at_fork(after_in_child=_Runtime.forked)


class Patience(msgspec.Struct, frozen=True):
    """How long a request may take, in seconds.

    The defaults end a call to a service that does not answer after about 20 s.
    """

    connect: float = 3.0
    stall: float = 5.0  # no byte arrived
    request: float = 60.0  # from connecting to the last byte
    retries: int = 5
    first_pause: float = 0.05
    longest_pause: float = 2.0
    retry_within: float = 15.0  # no retry begins later


# Where another store can be asked instead.
HASTY = Patience(connect=1.0, stall=1.0, retries=1, retry_within=1.0)


class RemoteObjects:
    """A bucket, container or web folder, below a prefix."""

    def __init__(self, url: str, patience: Patience) -> None:
        self._url = url.rstrip("/")
        self._readonly = scheme_of(url) in ("http", "https")
        keys = aws.aws() if scheme_of(url) == "s3" else None
        if keys is not None and keys.program is not None:
            keys.program()  # what is wrong with it is told now, and here
        self._store = _connect(url, patience, keys)
        self._hasty = _connect(url, msgspec.structs.replace(patience, retries=0), keys)
        self._conditional = True

    @classmethod
    def open(cls, url: str, patience: Patience | None = None) -> RemoteObjects:
        """The store at a URL.  Nothing is asked of the service yet.

        Raises UsageError for a URL with credentials, query or fragment, StoreError where the
        environment lacks or has what the service cannot use.
        """
        _check(url)
        with _failing("open the store", url, asks=False):
            return cls(url, patience or Patience())

    @property
    def url(self) -> str:
        """The URL as it was given; it never held credentials."""
        return self._url

    def get(self, key: str, *, most: int | None = None) -> bytes:
        """See `Objects`."""
        check_key(key)
        with self._failing_on("read", key):
            for attempt in itertools.count(1):
                answer = obstore.get(self._store, key)
                check_size(key, answer.meta["size"], most, self.url)
                try:
                    return bytes(answer.bytes())
                except BaseError:  # obstore retries a request, not all answers cut short
                    if attempt == _BODIES:
                        raise
        raise AssertionError("it returns or raises")

    async def fetch(self, key: str, *, most: int) -> bytes:
        """`get` for an event loop, where it ends at once when it is cancelled.

        An answer that is cut short is not asked for again: the caller does that.
        """
        check_key(key)
        with self._failing_on("read", key):
            answer = await obstore.get_async(self._store, key)
            check_size(key, answer.meta["size"], most, self.url)
            return bytes(await answer.bytes_async())

    def put(self, key: str, data: bytes | bytearray | memoryview, *, new: bool = False) -> None:
        """See `Objects`; it is durable at return, as far as the service is.

        A service without conditional writes (501 to If-None-Match) is asked first whether the
        object exists: of two writers in the same moment, the later one wins there.
        """
        check_key(key)
        self._check_writable(f"put {key!r}")
        with _failing(f"write {key!r} to", self.url):
            if new:
                self._put_new(key, data)
            else:
                obstore.put(self._store, key, data, use_multipart=False)

    def exists(self, key: str) -> bool:
        """See `Objects`."""
        try:
            self.size(key)
        except NoSuchObject:
            return False
        return True

    def size(self, key: str) -> int:
        """See `Objects`."""
        check_key(key)
        with self._failing_on("look up", key):
            return int(obstore.head(self._store, key)["size"])

    def list(self, prefix: str = "") -> Iterator[Listed]:
        """See `Objects`.  StoreError from web servers: they have no listing to rely on."""
        check_prefix(prefix)
        if self._readonly:
            raise StoreError(
                f"cannot list {self.url}",
                cause="HTTP has no listings",
                cure="name the snapshot, or list the store where it lies",
            )
        with _failing("list", self.url):
            for batch in obstore.list(self._store, prefix or None):
                for meta in batch:
                    yield Listed(meta["path"], meta["size"], meta["last_modified"].timestamp())

    def delete(self, keys: Iterable[str]) -> None:
        """See `Objects`."""
        wanted = checked_keys(keys)
        self._check_writable("delete objects")
        with _failing("delete objects of", self.url):
            for start in range(0, len(wanted), _DELETE_AT_ONCE):
                self._delete(wanted[start : start + _DELETE_AT_ONCE])

    def flush(self) -> None:
        """See `Objects`: a put that returned is as durable as the service makes it."""

    def _put_new(self, key: str, data: bytes | bytearray | memoryview) -> None:
        if self._conditional:
            try:
                self._put_if_absent(key, data)
            except (BaseError, NotSupportedError) as error:
                if not _is_not_implemented(error):
                    raise
                self._conditional = False
                _log.warning(
                    "%s has no conditional writes: two packs of the same name in the same moment"
                    " are not told apart there",
                    shown(self.url),
                )
            else:
                return
        if self.exists(key):
            raise AlreadyThere(key, url=self.url)
        obstore.put(self._store, key, data, use_multipart=False)
        if self.get(key, most=None) != data:
            raise AlreadyThere(key, url=self.url, cause="another writer came in between")

    def _put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> None:
        try:
            try:
                obstore.put(self._hasty, key, data, mode="create")
            except AlreadyExistsError:
                raise
            except BaseError as error:
                if _is_not_implemented(error):
                    raise
                obstore.put(self._store, key, data, mode="create")
        except AlreadyExistsError:
            # A request whose answer was lost is sent again, and finds its own work.
            if self.size(key) != len(data) or self.get(key, most=len(data)) != data:
                raise AlreadyThere(key, url=self.url) from None

    def _delete(self, keys: Sequence[str]) -> None:
        try:
            obstore.delete(self._store, keys)
        except FileNotFoundError:  # GCS and Azure tell; the others of the batch may be there yet
            for key in keys:
                with contextlib.suppress(FileNotFoundError):
                    obstore.delete(self._store, key)

    def _check_writable(self, what: str) -> None:
        if self._readonly:
            raise StoreError(
                f"cannot {what} in {self.url}",
                cause="a store behind HTTP is read-only",
                cure="write to the folder or bucket that the server serves",
            )

    @contextlib.contextmanager
    def _failing_on(self, doing: str, key: str) -> Iterator[None]:
        with _failing(f"{doing} {key!r} of", self.url):
            try:
                yield
            except FileNotFoundError:
                raise NoSuchObject(key, url=self.url) from None


@contextlib.contextmanager
def _failing(doing: str, url: str, *, asks: bool = True) -> Iterator[None]:
    """Turn obstore's errors into the store's.  `asks`: something is asked of the service."""
    if asks:
        _Runtime.use()
    try:
        yield
    except UserfaultError:
        raise
    except (BaseError, ValueError, OSError) as error:
        cause, cure = readable(error)
        raise StoreError(f"cannot {doing} {url}", cause=cause, cure=cure) from None


def _is_not_implemented(error: Exception) -> bool:
    return isinstance(error, NotSupportedError) or any(w in str(error) for w in _NOT_IMPLEMENTED)


def _check(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    what = ""
    if parts.username is not None or parts.password is not None:
        what = "credentials"
    elif parts.query or parts.fragment:
        what = "a query or fragment"
    if what:
        raise UsageError(
            f"the URL of the store at {parts.scheme}://{parts.hostname} has {what} in it",
            cause="URLs of stores are shown, logged and handed to other processes",
            cure="leave it out, and set the environment instead (docs/store.md, Credentials)",
        )
    if not parts.hostname:
        raise UsageError(
            f"{url!r} names no store",
            cause="there is no bucket or host in it",
            cure=f"write {parts.scheme}://NAME/prefix",
        )


def _connect(url: str, patience: Patience, keys: aws.Aws | None) -> ObjectStore:
    scheme = scheme_of(url)
    client: Any = {
        "connect_timeout": timedelta(seconds=patience.connect),
        "read_timeout": timedelta(seconds=patience.stall),
        "timeout": timedelta(seconds=patience.request),
    }
    retry: Any = {
        "max_retries": patience.retries,
        "retry_timeout": timedelta(seconds=patience.retry_within),
        "backoff": {
            "init_backoff": timedelta(seconds=patience.first_pause),
            "max_backoff": timedelta(seconds=patience.longest_pause),
            "base": 2,
        },
    }
    if scheme in ("http", "https"):
        client["allow_http"] = scheme == "http"
        header = credentials.http_header(url)
        if header:
            client["default_headers"] = {"Authorization": header}
        return HTTPStore.from_url(url, client_options=client, retry_config=retry)
    options: Any = {"client_options": client, "retry_config": retry}
    if scheme == "s3":
        if credentials.allows_http("AWS"):
            client["allow_http"] = True
        if keys is not None and keys.program is not None:
            options["credential_provider"] = keys.program
        settings: Any = keys.settings if keys is not None else {}
        return S3Store.from_url(url, config=settings, **options)
    if scheme == "gs":
        return GCSStore.from_url(url, **options)
    if credentials.allows_http("AZURE"):
        client["allow_http"] = True
    return AzureStore.from_url(url, **options)
