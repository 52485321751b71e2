"""What AWS's own tools read of a user's home: real files, a real program, a real service."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.pages import PAGE
from helpers.stores import memory
from snapshot.servers.s3 import S3
from userfault import lazy
from userfault.snapshot.errors import StoreError
from userfault.snapshot.inputs.file import FileInput
from userfault.snapshot.packing.pack import pack
from userfault.snapshot.stores.opening import open_objects
from userfault.snapshot.stores.redact import redact

pytestmark = [pytest.mark.usefixtures("no_credentials"), pytest.mark.xdist_group("stores")]

# It counts its calls, and prints what it was given.
_PROGRAM = """\
import os, sys
with open(sys.argv[1], "a") as calls:
    calls.write(os.environ.get("AWS_PROFILE", "") + "\\n")
print(open(sys.argv[2]).read())
"""


class Home:
    """The files of a user, and a program that gives keys."""

    def __init__(self, home: Path, service: S3) -> None:
        self.service = service
        self._aws = home / ".aws"
        self._aws.mkdir(parents=True)
        self._program = home / "give keys.py"
        self._program.write_text(_PROGRAM)
        self._calls, self._printed = home / "calls", home / "printed"

    @property
    def calls(self) -> int:
        """How often the program was run."""
        return len(self._calls.read_text().splitlines()) if self._calls.exists() else 0

    @property
    def command(self) -> str:
        """The program, as a line of the settings: its path has a space in it."""
        return f"{sys.executable} '{self._program}' {self._calls} {self._printed}"

    @property
    def endpoint(self) -> str:
        """Where the service is."""
        return f"http://127.0.0.1:{self.service.port}"

    def config(self, text: str) -> None:
        """~/.aws/config."""
        (self._aws / "config").write_text(text)

    def credentials(self, text: str) -> None:
        """~/.aws/credentials."""
        (self._aws / "credentials").write_text(text)

    def prints(self, **changes: object) -> None:
        """What the program prints from now on: the right keys, but for the changes."""
        answer = {
            "Version": 1,
            "AccessKeyId": self.service.access_key,
            "SecretAccessKey": self.service.secret_key,
            **changes,
        }
        self._printed.write_text(json.dumps(answer))

    def prints_text(self, text: str) -> None:
        """It prints this."""
        self._printed.write_text(text)


@pytest.fixture
def home(tmp_path: Path, seaweed_service: S3, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home, and an environment that says nothing but that plain HTTP is fine."""
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return Home(tmp_path / "home", seaweed_service)


def works(home: Home, prefix: str) -> None:
    objects = open_objects(f"s3://{home.service.bucket}/{prefix}")
    objects.put("a/b", b"bytes")
    assert objects.get("a/b") == b"bytes"


@pytest.mark.parametrize("where", ["config", "credentials"])
def test_a_program_of_the_profile_gives_the_keys(home: Home, prefix: str, where: str) -> None:
    home.prints()
    settings = f"[default]\nregion = us-east-1\nendpoint_url = {home.endpoint}\n"
    line = f"credential_process = {home.command}\n"
    home.config(settings + (line if where == "config" else ""))
    home.credentials("[default]\n" + line if where == "credentials" else "")
    works(home, prefix)
    assert home.calls == 1


def test_keys_that_expire_are_asked_for_again(home: Home, prefix: str) -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
    home.prints(Expiration=soon.isoformat())
    home.config(f"[default]\nendpoint_url = {home.endpoint}\ncredential_process = {home.command}\n")
    works(home, prefix)
    assert home.calls > 1
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    home.prints(Expiration=later.strftime("%Y-%m-%dT%H:%M:%SZ"))
    before = home.calls
    works(home, prefix)
    assert home.calls == before + 1


def test_a_restore_reads_with_the_keys_of_a_program(
    home: Home, prefix: str, tmp_path: Path
) -> None:
    home.prints()
    home.config(f"[default]\nendpoint_url = {home.endpoint}\ncredential_process = {home.command}\n")
    image = memory(40)
    (tmp_path / "image").write_bytes(image)
    url = f"s3://{home.service.bucket}/{prefix}"
    with contextlib.closing(FileInput(tmp_path / "image")) as pages:
        pack(open_objects(url), "one", pages)
    with lazy(f"{url}/one", cache="") as mapped:
        assert mapped[:PAGE] == image[:PAGE]
        mapped.complete()
        assert mapped[:] == image


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("no JSON, the-secret-word", "something else than JSON"),
        ('{"Version": 1, "AccessKeyId": "the-secret-word"}', "something else than JSON"),
        ('{"Version": 2, "AccessKeyId": "x", "SecretAccessKey": "the-secret-word"}', "Version 2"),
    ],
)
def test_what_a_program_prints_is_not_repeated_where_it_is_wrong(
    home: Home, printed: str, said: str
) -> None:
    home.prints_text(printed)
    home.config(f"[profile ci]\ncredential_process = {home.command}\n")
    os.environ["AWS_PROFILE"] = "ci"
    try:
        with pytest.raises(StoreError, match=said) as caught:
            open_objects("s3://images/x")
    finally:
        del os.environ["AWS_PROFILE"]
    assert "credential_process of AWS profile 'ci'" in str(caught.value)
    assert "the-secret-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/no/such/program --x", "No such file or directory"),
        (f"{sys.executable} -c 'raise SystemExit(3)'", "exit code 3"),
        ("give 'keys", "closing quotation"),
    ],
)
def test_a_program_that_cannot_be_run_is_named(home: Home, command: str, said: str) -> None:
    home.config(f"[default]\ncredential_process = {command}\n")
    with pytest.raises(StoreError, match=f"(?i){said}"):
        open_objects("s3://images/x")


def test_no_error_shows_what_a_program_gave(home: Home) -> None:
    home.prints(SecretAccessKey="issued-secret", SessionToken="issued-token")
    home.config(f"[default]\ncredential_process = {home.command}\n")
    open_objects("s3://images/x")
    told = redact("it said issued-secret and issued-token")
    assert told == "it said *** and ***"


_OF_ONE_SERVICE = """\
[default]
services = local
[services local]
s3 =
  endpoint_url = {0}
dynamodb =
  endpoint_url = http://127.0.0.1:9
"""


@pytest.mark.parametrize("profile", ["[default]\nendpoint_url = {0}\n", _OF_ONE_SERVICE])
def test_the_address_of_a_service_is_that_of_the_profile(
    home: Home, prefix: str, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.config(profile.format(home.endpoint))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", home.service.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", home.service.secret_key)
    works(home, prefix)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the environment goes first
    with pytest.raises(StoreError, match="refused"):
        works(home, prefix)


def test_the_address_of_s3_goes_before_that_of_all_services(home: Home, prefix: str) -> None:
    home.config(
        f"[default]\nendpoint_url = http://127.0.0.1:9\nservices = local\n[services local]\n"
        f"s3 =\n    endpoint_url = {home.endpoint}\n"
    )
    home.credentials(
        f"[default]\naws_access_key_id = {home.service.access_key}\n"
        f"aws_secret_access_key = {home.service.secret_key}\n"
    )
    works(home, prefix)


class Metadata:
    """A metadata service that counts who asks it, and gives nothing."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.asked = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.asked += 1
            client.close()

    def close(self) -> None:
        """End it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    """What AWS_METADATA_ENDPOINT names."""
    found = Metadata()
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", found.url)
    yield found
    found.close()


def test_the_metadata_service_is_not_asked_where_that_is_disabled(
    home: Home, metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.config("[default]\nregion = us-east-1\n")
    for value in ("true", "TRUE"):
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", value)
        with pytest.raises(StoreError, match=r"AWS_EC2_METADATA_DISABLED.*Credentials"):
            open_objects("s3://images/x").get("a/b")
    assert metadata.asked == 0
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    with pytest.raises(StoreError):
        open_objects("s3://images/x").get("a/b")
    assert metadata.asked


def test_a_public_bucket_needs_no_credentials(
    home: Home, metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.config(f"[default]\nendpoint_url = {home.endpoint}\n")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with pytest.raises(StoreError, match="403"):  # this one is not public
        open_objects(f"s3://{home.service.bucket}/x").get("a/b")
    assert metadata.asked == 0


@pytest.mark.parametrize("kind", ["role_arn = arn:aws:iam::1:role/x", "sso_session = corp"])
def test_a_profile_that_needs_another_service_says_how_to_use_it(
    home: Home, metadata: Metadata, kind: str
) -> None:
    home.config(f"[default]\n{kind}\n")
    with pytest.raises(StoreError, match="aws configure export-credentials"):
        open_objects("s3://images/x")
    assert metadata.asked == 0


def test_a_settings_file_that_is_a_fifo_is_refused_and_the_null_device_says_nothing(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "fifo"))
    with pytest.raises(StoreError, match="fifo"):
        open_objects(f"s3://{home.service.bucket}/x")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", home.service.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", home.service.secret_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL", home.endpoint)
    works(home, "null-device")
