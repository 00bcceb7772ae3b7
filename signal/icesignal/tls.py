"""The relay's certificate and key: read at the start, and again when the operator says so."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

HTTP = "http/1.1"  # its name in ALPN, RFC 7301 section 6


class TlsError(ValueError):
    """Certificate and key cannot be used; the sentence says why and what to do."""


class ServerTls:
    """A context for `wss`. Connections that stand keep the certificate that they began with.

    Args:
        certificate: chain, a PEM file.
        key: of its first certificate, a PEM file that is not encrypted.
        protocols: what is offered by ALPN; who names none of them, or nothing, is served as well.
    Raises:
        TlsError: the files cannot be used.
    """

    def __init__(self, certificate: str, key: str, protocols: Sequence[str] = (HTTP,)) -> None:
        self._files = (certificate, key)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.set_alpn_protocols(list(protocols))
        self.reload()

    def reload(self) -> None:
        """Read the files again; new connections get what they hold now.

        Raises:
            TlsError: they cannot be used; the old ones stay.
        """
        # A context of its own first: a bad pair must not half-replace a good one.
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), *self._files)
        _load(self.context, *self._files)


def _load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        context.load_cert_chain(certificate, key, _no_password)
    except _NeedsPassword:
        raise TlsError(
            f"{key} is encrypted, and a server has nobody to ask for its password; decrypt it: "
            f"openssl pkey -in {key} -out FILE"
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"{key} is not the key of the certificate in {certificate}") from None
        raise TlsError(
            f"{certificate} and {key} are not a PEM certificate and its key: {error.reason or error}"
        ) from None
    except OSError as error:
        raise TlsError(f"{_unreadable(certificate, key)} cannot be read: {(error.strerror or '').lower()}") from None


def _unreadable(*paths: str) -> str:
    """Return the first of the files that cannot be opened: OpenSSL does not say which."""
    for path in paths:
        try:
            with open(path, "rb"):
                pass
        except OSError:
            return path
    return paths[0]


class _NeedsPassword(Exception):
    """A key is encrypted."""


def _no_password() -> str:
    """Refuse: OpenSSL's own way would ask the terminal, and wait for it."""
    raise _NeedsPassword
