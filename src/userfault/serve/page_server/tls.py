"""TLS as CRIU has it: certificates of both sides (X.509), signed by an authority that both know."""

from __future__ import annotations

import socket
import ssl

import msgspec

from userfault.kernel.errors import UsageError
from userfault.serve.peers import RefusedError

_SIGNED = "both sides need certificates that the other side's --tls-cacert has signed"


class Tls(msgspec.Struct, frozen=True):
    """Paths of PEM files, as CRIU's options of these names.  `verify_name`: the server's."""

    cert: str
    key: str
    cacert: str
    cacrl: str | None = None
    verify_name: bool = True

    def context(self, *, server: bool) -> ssl.SSLContext:
        """For one side.  Raises UsageError for files that cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if server:
            # CRIU's GnuTLS wants to be asked again when it has read a ticket, and CRIU gives up.
            context.num_tickets = 0
        else:
            context.check_hostname = self.verify_name
        context.verify_mode = ssl.CERT_REQUIRED
        path = self.cert
        try:
            context.load_cert_chain(self.cert, self.key)
            path = self.cacert
            context.load_verify_locations(self.cacert)
            if self.cacrl is not None:
                path = self.cacrl
                context.load_verify_locations(self.cacrl)
                context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        except OSError as error:  # ssl.SSLError is one
            raise UsageError(
                f"TLS with the files that begin with {path}",
                cause=str(error.strerror or error),
                cure="name PEM files: a certificate, its private key, the authority's certificate",
            ) from None
        return context


def secured(
    context: ssl.SSLContext, channel: socket.socket, timeout_s: float, name: str | None = None
) -> ssl.SSLSocket:
    """The connection, once each side has shown who it is.  `name`: of the server, for its client.

    Raises RefusedError, and leaves the socket to the caller, where one is not who it has to be.
    """
    channel.settimeout(timeout_s)
    try:
        return context.wrap_socket(channel, server_side=name is None, server_hostname=name)
    except ssl.SSLCertVerificationError as error:
        raise RefusedError(
            "a page server's peer whose certificate is not good",
            cause=error.verify_message,
            cure=_SIGNED + ("" if name is None else "; --tls-no-cn-verify takes any name"),
        ) from None
    except ssl.SSLError as error:
        raise RefusedError(
            "a page server's peer with whom there is no TLS",
            cause=str(error.reason or error),
            cure=f"start both sides with --tls; {_SIGNED}",
        ) from None
    except (OSError, ValueError) as error:
        raise RefusedError(
            "a page server's peer with whom there is no TLS",
            cause=str(error),
            cure="start both sides with --tls",
        ) from None
