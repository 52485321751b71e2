"""Error texts of services and libraries, made short and free of secrets.

Services quote what they were sent (an access key, the text that was signed), and URLs may carry
signatures.  So: the first line alone, URLs without user and query, of an answer's body only its
code, and no value of a credential that this process knows.
"""

from __future__ import annotations

import re

from userfault.snapshot.credentials import secrets

_STATUS = re.compile(r"status code: (\d{3}(?: [A-Z][A-Za-z -]*)?)")
_CODE = re.compile(r"<Code>([A-Za-z]+)</Code>")
_URL = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^\s/@]*@)?([^\s?#)\"']*)[^\s)\"',]*")
_RETRIES = re.compile(r", after \d+ retries.*?retry_timeout: \S+")
_MOST = 300

# What the library tells only in its debug output, in our words.
_DETAILS = (
    ("ConnectionRefused", "connection refused"),
    ("ConnectionReset", "connection reset"),
    ("TimedOut", "timed out"),
    ("IncompleteBody", "the answer was cut short"),
    ("IncompleteMessage", "the connection ended before the answer"),
    ("dns error", "the host's name cannot be resolved"),
    ("BadScheme", "plain HTTP is not allowed"),
    ("NetworkUnreachable", "network unreachable"),
    ("HostUnreachable", "host unreachable"),
    ("InvalidCertificate", "the server's certificate is not trusted"),
    ("Parse(", "the answer is not HTTP"),
)
_SET = "set credentials in the environment (docs/store.md, Credentials)"
_CURES = (
    (("169.254.169.254", "metadata", "token request", "Account must", "401"), _SET),
    (("403", "AccessDenied", "SignatureDoesNotMatch"), "check the credentials and what they allow"),
    (("NoSuchBucket", "ContainerNotFound", "bucket does not"), "create the bucket first"),
    (("plain HTTP is not allowed",), "set AWS_ALLOW_HTTP=true (AZURE_ALLOW_HTTP=true)"),
)
_ANY_CURE = "check the address, the network and the service, then try again"


def readable(error: BaseException) -> tuple[str, str]:
    """Cause and cure of an error of the client library."""
    text = redact(str(error))
    cure = next((cure for words, cure in _CURES if any(w in text for w in words)), _ANY_CURE)
    return text, cure


def redact(text: str) -> str:
    """One line without secrets, of at most a few hundred characters."""
    line, _, debug = text.partition("Debug source:")
    line = line.strip()
    status, code = _STATUS.search(line), _CODE.search(line)
    if status:
        line = line[: status.end()] + (f" ({code[1]})" if code else "")
    detail = next((words for sign, words in _DETAILS if sign in debug), "")
    line = " ".join(line.split()) + (f" ({detail})" if detail and not status else "")
    line = _RETRIES.sub("", line)
    line = _URL.sub(r"\1\2", line)
    for secret in secrets():
        line = line.replace(secret, "***")
    return line[:_MOST]
