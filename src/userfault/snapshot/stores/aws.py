"""What AWS's own tools read and obstore does not: the shared files, and what they name.

Keys, `region`, `endpoint_url` and `credential_process` of a profile, in the order of the AWS SDKs:
the environment goes first, then the files, then web identities, containers and the metadata
service, which are obstore's (`AWS_EC2_METADATA_DISABLED` is looked at here).
"""

from __future__ import annotations

import configparser
import datetime
import os
import subprocess
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from userfault.snapshot.errors import StoreError
from userfault.source.opening import open_file

if TYPE_CHECKING:
    from obstore.store import S3Credential

_KEYS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
_IDENTITIES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
# Kinds of profiles that need a conversation with a service of AWS before there are keys.
_ELSEWHERE = ("role_arn", "sso_session", "sso_account_id", "login_session")
_SET = "set credentials in the environment (docs/store.md, Credentials)"
_PROCESS_S = 60.0
_AGAIN_S = 60.0  # before its keys expire, a program is asked for others
_issued: set[str] = set()  # secrets that programs gave: no text may show them


class Aws(NamedTuple):
    """What a store of S3 is opened with: settings of obstore, and who gives keys besides."""

    settings: dict[str, str]
    program: Program | None


class Profile(NamedTuple):
    """The settings of AWS_PROFILE (or `default`) in both files, and those of its services."""

    name: str
    values: dict[str, str]
    s3: dict[str, str]


def aws() -> Aws:
    """Keys, region, endpoint and program of the user's profile, where the environment has none.

    Raises StoreError where AWS_PROFILE names a profile that is in neither file, a file cannot be
    understood, or there are no credentials and the metadata service must not be asked for some.
    """
    profile = _profile()
    values = profile.values
    settings: dict[str, str] = {}
    if "AWS_REGION" not in os.environ and "AWS_DEFAULT_REGION" not in os.environ:
        settings = {"region": values["region"]} if values.get("region") else {}
    endpoint = _endpoint(profile)
    if endpoint:
        settings["endpoint"] = endpoint
    if "AWS_ACCESS_KEY_ID" in os.environ or _is_true("AWS_SKIP_SIGNATURE"):
        return Aws(settings, None)
    if "aws_access_key_id" in values and "aws_secret_access_key" in values:
        found = {ours: values[theirs] for theirs, ours in _KEYS.items() if theirs in values}
        return Aws({**settings, **found}, None)
    if os.environ.get(_IDENTITIES[0]):
        return Aws(settings, None)
    command = values.get("credential_process", "")
    if command:
        return Aws(settings, Program(command, profile.name))
    if not any(os.environ.get(name) for name in _IDENTITIES):
        _check_metadata(profile)
    return Aws(settings, None)


def secrets() -> list[str]:
    """What the files and programs have given."""
    try:
        values = _profile().values
    except StoreError:
        values = {}
    return [*(values[key] for key in _KEYS if key in values), *_issued]


class Program:
    """A `credential_process`: a program of the user's that prints keys.  For any thread.

    It is run when the store is opened, and again before its keys expire.
    """

    def __init__(self, command: str, profile: str) -> None:
        self._command = command
        self._profile = profile
        self._lock = threading.Lock()
        self._held: S3Credential | None = None

    def __call__(self) -> S3Credential:
        """The keys, as obstore takes them.  Raises StoreError."""
        with self._lock:
            if self._held is None or _expires(self._held["expires_at"]):
                self._held = self._run()
            return self._held

    def _run(self) -> S3Credential:
        import shlex  # noqa: PLC0415  # for this alone

        try:
            done = subprocess.run(
                shlex.split(self._command),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=_PROCESS_S,
            )
        except OSError as error:
            raise self._failed(os.strerror(error.errno or 0)) from None
        except ValueError as error:  # an open quote
            raise self._failed(str(error)) from None
        except subprocess.TimeoutExpired:
            raise self._failed(f"it did not end within {_PROCESS_S:.0f} s") from None
        if done.returncode:
            raise self._failed(f"it ended with exit code {done.returncode}")
        try:
            printed = msgspec.json.decode(done.stdout, type=_Printed)
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Their own text may quote what was printed.
            raise self._failed(
                "it printed something else than JSON with Version, AccessKeyId and SecretAccessKey"
            ) from None
        if printed.Version != 1:
            raise self._failed(f"it printed Version {printed.Version}, and 1 is known")
        return self._taken(printed)

    def _taken(self, printed: _Printed) -> S3Credential:
        _issued.update(filter(None, (printed.SecretAccessKey, printed.SessionToken)))
        expires = printed.Expiration
        if expires is not None and expires.tzinfo is None:
            expires = expires.replace(tzinfo=datetime.UTC)
        return {
            "access_key_id": printed.AccessKeyId,
            "secret_access_key": printed.SecretAccessKey,
            "token": printed.SessionToken,
            "expires_at": expires,
        }

    def _failed(self, cause: str) -> StoreError:
        return StoreError(
            f"the credential_process of AWS profile {self._profile!r} gave no credentials",
            cause=cause,
            cure="run it by hand to see what it says, and correct ~/.aws/config",
        )


class _Printed(msgspec.Struct):
    """What a credential_process prints, by the names of AWS."""

    Version: int
    AccessKeyId: str
    SecretAccessKey: str
    SessionToken: str | None = None
    Expiration: datetime.datetime | None = None


def _profile() -> Profile:
    """The user's profile.  Raises StoreError."""
    name = os.environ.get("AWS_PROFILE") or "default"
    keys = _read("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    config = _read("AWS_CONFIG_FILE", "~/.aws/config")
    section = name if name == "default" else f"profile {name}"
    if os.environ.get("AWS_PROFILE") and name not in keys and section not in config:
        raise StoreError(
            f"there is no AWS profile {name!r}",
            cause="AWS_PROFILE names it, and neither ~/.aws/credentials nor ~/.aws/config has it",
            cure="correct or unset AWS_PROFILE",
        )
    values = {**config.get(section, {}), **keys.get(name, {})}
    services = config.get(f"services {values.get('services', '')}", {})
    return Profile(name, values, _nested(services.get("s3", "")))


def _endpoint(profile: Profile) -> str:
    """The address of the service that the files name; empty where the environment does."""
    if any(os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")):
        return ""
    ignored = profile.values.get("ignore_configured_endpoint_urls", "")
    if _is_true("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") or ignored.lower() == "true":
        return ""
    return profile.s3.get("endpoint_url") or profile.values.get("endpoint_url", "")


def _check_metadata(profile: Profile) -> None:
    """StoreError where nobody is left but the metadata service, and the user does not want that."""
    kind = next((each for each in _ELSEWHERE if each in profile.values), "")
    if kind:
        raise StoreError(
            f"the AWS profile {profile.name!r} gives no credentials here",
            cause=f"it has {kind}, and for that a service of AWS is to be asked first",
            cure="set in another profile `credential_process = aws configure export-credentials"
            f" --profile {profile.name} --format process`, or export the keys",
        )
    if _is_true("AWS_EC2_METADATA_DISABLED"):
        raise StoreError(
            "there are no credentials for S3",
            cause="neither the environment nor ~/.aws has any, and AWS_EC2_METADATA_DISABLED=true"
            " forbids to ask the metadata service",
            cure=_SET,
        )


def _is_true(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")


def _expires(when: datetime.datetime | None) -> bool:
    if when is None:
        return False
    return when - datetime.datetime.now(datetime.UTC) < datetime.timedelta(seconds=_AGAIN_S)


def _nested(text: str) -> dict[str, str]:
    """The settings of one service, which are indented below its name."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _read(variable: str, default: str) -> dict[str, dict[str, str]]:
    """The sections of a file of AWS's.  Raises StoreError."""
    path = os.environ.get(variable) or os.path.expanduser(default)
    if path == os.devnull:  # as it is set by who wants none
        return {}
    parser: Any = configparser.RawConfigParser(default_section="")  # `default` is one of many
    try:
        with open(open_file(path), encoding="utf-8") as file:
            parser.read_file(file)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, configparser.Error):
        # The parser's own text quotes lines of the file.
        raise StoreError(
            f"cannot read {path}",
            cause="it is no AWS settings file that this user can read",
            cure=f"correct it, or set {variable} to another one",
        ) from None
    return {name: dict(parser[name]) for name in parser.sections()}
