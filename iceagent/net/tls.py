"""TLS as a client: chain and name are always verified, through a proxy, too."""

from __future__ import annotations

import ssl

import trio

from iceagent.errors import LocalError
from iceagent.net.host_names import tls_name

HANDSHAKE_TIMEOUT_S = 10.0
"""A server that accepts the connection and then says nothing is given up after this."""


def client_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Return a context that verifies servers.

    Args:
        ca_file: certificates to trust, PEM; None for the system's.
    Raises:
        LocalError: the file cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise LocalError(f"the certificates in {ca_file} cannot be read: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def wrap_tls(stream: trio.abc.Stream, context: ssl.SSLContext, name: str) -> trio.SSLStream[trio.abc.Stream]:
    """Return the stream secured, with the handshake done; it is closed if that fails.

    Args:
        stream: connected, perhaps through a proxy.
        context: one that verifies.
        name: host name or IP literal the certificate must carry.
    Raises:
        LocalError: the context does not verify.
        OSError: the handshake fails, or takes too long; `ssl.SSLCertVerificationError` where it is the certificate.
    """
    if context.verify_mode is not ssl.CERT_REQUIRED or not context.check_hostname:
        await trio.aclose_forcefully(stream)
        raise LocalError("this TLS context does not verify the server's name; use one of ssl.create_default_context()")
    try:
        # Making the stream looks at the name already, and raises what it likes of a bad one.
        secured = trio.SSLStream(stream, context, server_hostname=tls_name(name), https_compatible=True)
    except (ValueError, TypeError) as error:
        await trio.aclose_forcefully(stream)
        raise OSError(f"{name[:80]!r} is no name that a certificate can have") from error
    try:
        with trio.fail_after(HANDSHAKE_TIMEOUT_S):
            await secured.do_handshake()
    except trio.TooSlowError:
        await trio.aclose_forcefully(stream)
        raise TimeoutError(f"{name} did not finish the TLS handshake in {HANDSHAKE_TIMEOUT_S:g} s") from None
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise (
            error.__cause__ if isinstance(error.__cause__, OSError) else OSError(f"TLS with {name}: {error}")
        ) from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secured
