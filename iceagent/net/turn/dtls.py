"""TURN over DTLS: a socket of its own, `trio.DTLSEndpoint`, and the certificate's name checked by us. RFC 7350."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any, Final

import trio
from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509

from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError
from iceagent.net.api import Batch
from iceagent.net.host_names import tls_name
from iceagent.net.queues import SendQueue
from iceagent.net.sockaddr import bind_sockaddr
from iceagent.net.turn.transport import CLOSED

HANDSHAKE_TIMEOUT_S: Final = 10.0
SEND_QUEUE: Final = 256  # datagrams that may wait for the writer
_MTU: Final = 1400  # bytes of UDP payload: what crosses PPPoE and most tunnels
"""trio asks the kernel for the path's MTU otherwise, which not every system knows."""


class DtlsTransport:
    """A DTLS channel to a server, one datagram per message.

    Args:
        endpoint: owned from now on.
        channel: of that endpoint, the handshake done.
        local: our end.
        server: the other end.
    """

    is_stream = False

    def __init__(
        self, endpoint: trio.DTLSEndpoint, channel: trio.DTLSChannel, local: TransportAddress, server: TransportAddress
    ) -> None:
        self._endpoint = endpoint
        self._channel = channel
        self._local = local
        self._server = server
        self._queue = SendQueue(SEND_QUEUE, lambda message: 1, CLOSED)
        self._scope = trio.CancelScope()

    @property
    def local_address(self) -> TransportAddress:
        """Our end."""
        return self._local

    @property
    def server_address(self) -> TransportAddress:
        """The server."""
        return self._server

    async def run(self) -> None:
        """Write what is queued, until closed."""
        try:
            with self._scope:
                while True:
                    for message in await self._queue.take():
                        with contextlib.suppress(OSError):  # too large, unreachable: UDP promises nothing
                            await self._channel.send(message)
                        self._queue.written((message,))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the reader meets the same, and reports it
        finally:
            self.close()

    def send_nowait(self, messages: Sequence[bytes]) -> int:
        """Queue what there is room for."""
        return self._queue.send_nowait(messages)

    async def send(self, messages: Sequence[bytes]) -> None:
        """Queue all, waiting for room; senders take their turns in order."""
        await self._queue.send(messages)

    async def receive(self) -> list[Batch]:
        """Wait for a message."""
        self._queue.check_open()
        message = await self._channel.receive()
        return [Batch(self._server, message, len(message) or 1)]

    def take_errors(self) -> int:
        """Trio keeps ICMP errors of a DTLS endpoint to itself."""
        return 0

    def close(self) -> None:
        """Close channel and socket."""
        if not self._queue.closed:
            self._queue.close()
            self._scope.cancel()
            self._endpoint.close()


async def open_dtls(
    host: str, ports: Iterable[int], server: TransportAddress, name: str, ca_file: str | None
) -> DtlsTransport:
    """Connect to a server over DTLS 1.2.

    Args:
        host: the local address to bind.
        ports: local ports to try in turn; 0 lets the system choose.
        server: the server's address.
        name: host name or IP literal its certificate must carry.
        ca_file: certificates to trust, PEM; None for the system's.
    Raises:
        OSError: the handshake fails or takes too long, or the certificate is not good for `name`.
        LocalError: the certificates to trust cannot be read.
    """
    # Trio takes a failed handshake for somebody's forged datagram and tries on; a refused certificate ends it here.
    refused = trio.CancelScope()
    context = _context(name, ca_file, refused)
    sock = await _bind(host, ports)
    bound = sock.getsockname()
    endpoint = trio.DTLSEndpoint(sock)
    try:
        target: Any = bind_sockaddr(server.host, server.port)[1]  # trio's type knows IPv4's two fields only
        channel = endpoint.connect(target, context)
        channel.set_ciphertext_mtu(_MTU)
        with trio.fail_after(HANDSHAKE_TIMEOUT_S), refused:
            await channel.do_handshake()
        if refused.cancelled_caught:
            raise OSError(f"the DTLS server's certificate is not good for {name}, or nobody we trust vouches for it")
    except trio.TooSlowError:
        endpoint.close()
        raise TimeoutError(f"{name} did not finish the DTLS handshake in {HANDSHAKE_TIMEOUT_S:g} s") from None
    except (SSL.Error, trio.BrokenResourceError) as error:
        endpoint.close()
        raise OSError(f"the DTLS handshake with {name} failed") from error
    except BaseException:
        endpoint.close()
        raise
    return DtlsTransport(endpoint, channel, TransportAddress(bound[0], bound[1]), server)


async def _bind(host: str, ports: Iterable[int]) -> trio.socket.SocketType:
    refusal = OSError("no local port is allowed")
    for port in ports:
        family, address = bind_sockaddr(host, port)
        sock = trio.socket.socket(family, trio.socket.SOCK_DGRAM)
        try:
            await sock.bind(address)
        except OSError as error:
            sock.close()
            refusal = error
        else:
            return sock
    raise refusal


def _context(name: str, ca_file: str | None, refused: trio.CancelScope) -> SSL.Context:
    context = SSL.Context(SSL.DTLS_METHOD)
    try:
        if ca_file is None:
            context.set_default_verify_paths()
        else:
            context.load_verify_locations(ca_file)
    except SSL.Error as error:
        raise LocalError(f"the certificates in {ca_file} cannot be read") from error

    def verify(_connection: SSL.Connection, certificate: X509, _errno: int, depth: int, chain_is_good: int) -> bool:
        # OpenSSL has judged the chain; the name of the leaf is left to us.
        is_good = bool(chain_is_good)
        if is_good and depth == 0:
            is_good = names_match(certificate.to_cryptography(), name)
        if not is_good:
            refused.cancel()
        return is_good

    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
    return context


def names_match(certificate: x509.Certificate, name: str) -> bool:
    """Return whether a certificate's subjectAltName carries a host name or IP literal.

    A wildcard stands for one whole leftmost label. Common names do not count. RFC 9525 section 6.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    try:
        return ipaddress.ip_address(name.partition("%")[0]) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        wanted = tls_name(name).lower()
    patterns = [pattern.lower() for pattern in names.get_values_for_type(x509.DNSName)]
    parent = wanted.partition(".")[2]
    return wanted in patterns or ("." in parent and f"*.{parent}" in patterns)
