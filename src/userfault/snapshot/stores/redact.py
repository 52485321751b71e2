"""Error texts of services and libraries, made short and free of secrets.

Services quote what they were sent (an access key, the text that was signed), and URLs may carry
signatures.  So: what was requested and what came of it, URLs without user and query, of an answer's
body only its code, and no value of a credential that this process knows.
"""

from __future__ import annotations

import re

from userfault.snapshot.stores.credentials import secrets

_STATUS = re.compile(r"status code: (\d{3}(?: [A-Z][A-Za-z -]*)?)")
_CODE = re.compile(r"<Code>([A-Za-z]+)</Code>")
_URL = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^\s/@]*@)?([^\s?#)\"']*)[^\s)\"',]*")
_REQUEST = re.compile(r"Error performing ([A-Z]+) (\S+)")
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
# A status stands by itself: the digits of a port or of a name are none.
_CURES = (
    (r"api/token|etadata|token request|Account must|(?<![\w:/.-])401\b", _SET),
    (
        r"(?<![\w:/.-])403\b|AccessDenied|SignatureDoesNotMatch",
        "check the credentials and what they allow",
    ),
    (r"NoSuchBucket|ContainerNotFound|bucket does not", "create the bucket or container first"),
    (r"plain HTTP is not allowed", "set AWS_ALLOW_HTTP=true (AZURE_ALLOW_HTTP=true)"),
)
_ANY_CURE = "check the address, the network and the service, then try again"


def readable(error: BaseException) -> tuple[str, str]:
    """Cause and cure of an error of the client library."""
    text = redact(str(error))
    cure = next((cure for signs, cure in _CURES if re.search(signs, text)), _ANY_CURE)
    return text, cure


def redact(text: str) -> str:
    """One line without secrets, of at most a few hundred characters."""
    line, _, debug = text.partition("Debug source:")
    line = " ".join(line.split())
    request, status, code = _REQUEST.search(line), _STATUS.search(line), _CODE.search(line)
    detail = next((words for sign, words in _DETAILS if sign in debug), "")
    if status:
        told = status[1] + (f" ({code[1]})" if code else "")
    elif detail:
        told = detail
    else:
        told = line
    if request and told is not line:
        told = f"{request[1]} {request[2]}: {told}"
    told = _URL.sub(r"\1\2", told)
    for secret in secrets():
        told = told.replace(secret, "***")
    return told[:_MOST]
