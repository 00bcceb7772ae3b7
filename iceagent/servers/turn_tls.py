"""Certificates of the TURN server, for TLS and DTLS, replaced while it runs."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from iceagent.servers.turn_options import TlsFiles, TurnOptionsError

if TYPE_CHECKING:
    from OpenSSL import SSL


class Certificates:
    """The TLS and DTLS contexts of a server; `reload` reads the files again.

    Connections that stand keep the certificate they began with.

    Args:
        files: certificate chain and key.
        dtls: whether a DTLS context is wanted, too.

    Raises:
        TurnOptionsError: the files cannot be used.
    """

    def __init__(self, files: TlsFiles, *, dtls: bool) -> None:
        self._files = files
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self.dtls = _dtls_context() if dtls else None
        self.reload()

    def reload(self) -> None:
        """Read the files again; new connections get what they hold now.

        Raises:
            TurnOptionsError: they cannot be used; the old ones stay.
        """
        certificate, key = str(self._files.certificate), str(self._files.key)
        try:
            # A context of its own first: a bad pair must not half-replace a good one.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, _no_password)
            self.tls.load_cert_chain(certificate, key, _no_password)
        except _NeedsPassword:
            raise TurnOptionsError(
                f"{key} is encrypted, and a server has nobody to ask for its password;"
                f" decrypt it: openssl pkey -in {key} -out FILE"
            ) from None
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise TurnOptionsError(f"cannot use {certificate} with {key}: {reason}") from None
        if self.dtls is not None:
            _use_pair(self.dtls, self._files)


class _NeedsPassword(Exception):
    """A key is encrypted."""


def _no_password() -> str:
    """Refuse: OpenSSL's own way would ask the terminal, and everything would stop until somebody answers."""
    raise _NeedsPassword


def _use_pair(context: SSL.Context, files: TlsFiles) -> None:
    """Load a pair that has proven good; pyOpenSSL's own way of reading a key would ask the terminal, too."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(files.key.read_bytes(), None)
    context.use_certificate_chain_file(str(files.certificate))
    context.use_privatekey(key)  # type: ignore[arg-type]  # of those kinds that TLS takes


def _dtls_context() -> SSL.Context | None:
    """Return a DTLS context; None where pyOpenSSL is not installed."""
    try:
        from OpenSSL import SSL

        from iceagent.net.dtls import prepare
    except ImportError:
        return None
    return prepare(SSL.Context(SSL.DTLS_METHOD))
