"""Stores behind a network, on real servers: S3 by two programs, HTTP by nginx."""

from __future__ import annotations

import logging
import pathlib
import pickle
import subprocess
import sys

import pytest

from snapshot.chunks import Fill, filling
from snapshot.claims import claimed_at_once
from snapshot.servers import nginx
from snapshot.servers.nginx import Web
from snapshot.servers.s3 import S3
from userfault.kernel.errors import UsageError
from userfault.snapshot.errors import AlreadyThere, FormatError, NoSuchObject, StoreError
from userfault.snapshot.serving.reading import open_reader
from userfault.snapshot.stores.objects import Objects
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.stores.redact import readable, redact

pytestmark = pytest.mark.xdist_group("stores")


@pytest.fixture
def store(s3: S3, prefix: str) -> Objects:
    """A prefix of a bucket, on each S3 service."""
    return open_objects(f"s3://{s3.bucket}/{prefix}")


def test_what_is_put_can_be_read_listed_and_removed(store: Objects) -> None:
    store.put("chunks/ab/cd", b"one" * 10_000)
    store.put("chunks/ab/ce", memoryview(b"two"))
    store.put("snapshots/name", b"three", new=True)
    store.flush()
    assert store.get("chunks/ab/cd") == b"one" * 10_000
    assert store.size("snapshots/name") == 5
    assert {(one.key, one.size) for one in store.list()} == {
        ("chunks/ab/cd", 30_000),
        ("chunks/ab/ce", 3),
        ("snapshots/name", 5),
    }
    assert [one.key for one in store.list("snapshots/")] == ["snapshots/name"]
    store.delete(["chunks/ab/cd", "chunks/ab/never-was"])
    assert not store.exists("chunks/ab/cd")
    with pytest.raises(NoSuchObject, match="chunks/ab/cd"):
        store.get("chunks/ab/cd")
    with pytest.raises(NoSuchObject):
        store.size("chunks/ab/cd")


def test_a_put_replaces_and_a_new_put_does_not(store: Objects) -> None:
    store.put("a/b", b"first")
    store.put("a/b", b"second")
    with pytest.raises(AlreadyThere, match="a/b"):
        store.put("a/b", b"third", new=True)
    assert store.get("a/b") == b"second"


def test_an_object_longer_than_it_can_be_is_not_read(store: Objects) -> None:
    store.put("a/b", b"x" * 1000)
    assert len(store.get("a/b", most=1000)) == 1000
    with pytest.raises(FormatError, match="1000 bytes"):
        store.get("a/b", most=999)


def test_of_several_writers_of_one_name_one_wins(seaweed_s3: S3, prefix: str) -> None:
    won, lost = claimed_at_once(
        lambda: open_objects(f"s3://{seaweed_s3.bucket}/{prefix}"), lambda number: b"%d" % number
    )
    assert len(won) == 1
    assert len(lost) == 5
    found = open_objects(f"s3://{seaweed_s3.bucket}/{prefix}").get("snapshots/name")
    assert found == b"%d" % won[0]


def test_a_service_without_conditional_writes_is_told_once(
    swift_s3: S3, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_objects(f"s3://{swift_s3.bucket}/{prefix}")
    with caplog.at_level(logging.WARNING, logger="userfault"):
        store.put("a/b", b"x", new=True)
        store.put("a/c", b"x", new=True)
    assert [record.getMessage() for record in caplog.records] == [
        f"{store.url} has no conditional writes: two packs of the same name in the same moment are"
        " not told apart there"
    ]


def test_a_bucket_that_is_not_there_is_named(swift_s3: S3) -> None:  # noqa: ARG001
    with pytest.raises(StoreError, match=r"NoSuchBucket.*create the bucket or"):
        open_objects("s3://never-made/x").put("a/b", b"x")


def test_the_digits_of_a_port_are_no_status() -> None:
    missing = "PUT http://127.0.0.1:28403/b/a: 404 Not Found (NoSuchBucket)"
    assert readable(OSError(missing))[1] == "create the bucket or container first"
    refused = "PUT http://127.0.0.1:28404/b/a: 403 Forbidden"
    assert readable(OSError(refused))[1] == "check the credentials and what they allow"


def test_wrong_credentials_are_an_error_that_does_not_show_them(
    s3: S3, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    store = open_objects(f"s3://{s3.bucket}/{prefix}")
    with pytest.raises(StoreError) as caught:
        store.put("a/b", b"x")
    text = str(caught.value) + repr(caught.value) + repr(caught.value.__cause__)
    assert "403" in text
    assert "credentials" in text
    for secret in ("a-wrong-secret", s3.secret_key, s3.access_key, "Signature="):
        assert secret not in text
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_no_credentials_are_an_error_that_says_where_to_put_them(
    s3: S3, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match=r"docs/store.md, Credentials"):
        open_objects(f"s3://{s3.bucket}/{prefix}").get("a/b")


def test_credentials_and_region_are_found_in_the_files_of_aws(
    s3: S3, prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "home" / ".aws"
    folder.mkdir(parents=True)
    (folder / "credentials").write_text(
        f"[default]\naws_access_key_id = no\naws_secret_access_key = no\n[images]\n"
        f"aws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
    )
    (folder / "config").write_text("[profile images]\nregion = us-east-1\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "images")
    store = open_objects(f"s3://{s3.bucket}/{prefix}")
    store.put("a/b", b"x")
    assert store.get("a/b") == b"x"
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreError, match="no AWS profile 'nobody'"):
        open_objects(f"s3://{s3.bucket}/{prefix}")


def test_plain_http_to_s3_has_to_be_allowed(
    seaweed_s3: S3, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StoreError, match="AWS_ALLOW_HTTP=true"):
        open_objects(f"s3://{seaweed_s3.bucket}/{prefix}").get("a/b")


@pytest.mark.parametrize(
    "url",
    ["https://user:password@host/x", "s3://key:secret@bucket/x", "https://host/x?sig=password"],
)
def test_a_url_with_secrets_is_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_objects(url)
    assert "password" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("no_credentials")
@pytest.mark.parametrize(
    "text",
    [
        "Generic S3 error: GET https://b.host/x?X-Amz-Signature=abcdef0123&X-Amz-Credential=AK/1",
        "Generic error: PUT https://user:abcdef0123@host/x failed",
        "x status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>"
        "abcdef0123</AWSAccessKeyId></Error>",
        "first line\n\nDebug source:\n Authorization: abcdef0123",
        "it said known-secret-abcdef0123 in plain",
    ],
)
def test_no_secret_gets_through_an_error_text(
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "known-secret-abcdef0123")
    assert "abcdef0123" not in redact(text)


def test_an_error_survives_a_pipe(s3: S3, prefix: str) -> None:
    with pytest.raises(NoSuchObject) as caught:
        open_objects(f"s3://{s3.bucket}/{prefix}").get("a/b")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_web_server_is_a_store_to_read_from(in_web: Fill) -> None:
    store = open_objects(in_web.url)
    for chunk in in_web.chunks[:5]:
        assert store.get(chunk.key) == chunk.data
        assert store.size(chunk.key) == len(chunk.data)
    assert not store.exists("chunks/aa/none")
    with pytest.raises(FormatError, match="bytes long"):
        store.get(in_web.chunks[0].key, most=100)


def test_a_web_server_takes_no_writes_and_has_no_listing(in_web: Fill) -> None:
    store = open_objects(in_web.url)
    with pytest.raises(StoreError, match="read-only"):
        store.put("a/b", b"x")
    with pytest.raises(StoreError, match="read-only"):
        store.delete(["a/b"])
    with pytest.raises(StoreError, match="no listings"):
        list(store.list())


@pytest.mark.usefixtures("no_credentials")
def test_a_web_server_is_given_the_password_of_netrc_and_no_log_or_error_has_it(
    web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    (web.root / "private" / "a").mkdir(parents=True)
    (web.root / "private" / "a" / "b").write_bytes(b"hidden")
    with pytest.raises(StoreError, match=r"401.*set credentials"):
        open_objects(web.url("private")).get("a/b")
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login {nginx.USER} password {nginx.PASSWORD}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    store = open_objects(web.url("private"))
    assert store.get("a/b") == b"hidden"
    assert nginx.PASSWORD not in store.url
    with pytest.raises(NoSuchObject) as caught:
        store.get("a/c")
    assert nginx.PASSWORD not in str(caught.value)
    netrc.write_text("machine 127.0.0.1 login x password \x00 secret-word what")
    with pytest.raises(StoreError, match="netrc") as broken:
        open_objects(web.url("private"))
    assert "secret-word" not in str(broken.value)


@pytest.mark.usefixtures("no_credentials")
def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(StoreError, match="connection refused"):
        open_objects("http://127.0.0.1:9/x").get("a/b")


def test_without_obstore_the_error_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['obstore'] = None\n"
        "from userfault.kernel.errors import Unavailable\n"
        "from userfault.snapshot.serving.reading import open_reader\n"
        "try: open_reader('s3://bucket/x')\n"
        "except Unavailable as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert "pip install 'userfault[remote]'" in done.stdout


_FORK = """
import os, sys
from userfault.snapshot.errors import StoreError
from userfault.snapshot.stores.opening import open_objects
store = open_objects(sys.argv[1])
if sys.argv[2] == "used": store.exists("a/b")
child = os.fork()
if not child:
    try: print(open_objects(sys.argv[1]).get("a/b"), flush=True)
    except StoreError as error: print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.parametrize("before", ["used", "unused"])
def test_a_forked_child_gets_an_answer_or_an_error(
    seaweed_s3: S3, prefix: str, before: str
) -> None:
    url = f"s3://{seaweed_s3.bucket}/{prefix}"
    open_objects(url).put("a/b", b"x")
    command = [sys.executable, "-c", _FORK, url, before]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert ("forked" if before == "used" else "b'x'") in done.stdout


def test_a_reader_reads_what_either_service_has(s3: S3, prefix: str) -> None:
    store = open_objects(f"s3://{s3.bucket}/{prefix}")
    filled = filling(store, 10)
    reader = open_reader(store.url, cache="")
    try:
        reader.ahead([chunk.wanted for chunk in filled.chunks])
        for chunk in filled.chunks:
            assert reader.chunk(*chunk.wanted) == chunk.data
    finally:
        reader.close()
