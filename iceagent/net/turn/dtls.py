"""TURN over DTLS: a UDP socket, `DtlsConnection` on top, and the certificate's name checked by us. RFC 7350."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
from collections.abc import Sequence
from typing import Final

import trio
from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509

from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError
from iceagent.net.api import IcmpError, SetsFragments, UdpSocket
from iceagent.net.batch import Batch
from iceagent.net.dtls import MAX_MESSAGE, DtlsConnection, prepare
from iceagent.net.host_names import tls_name
from iceagent.net.turn.transport import CLOSED, batches_of

HANDSHAKE_TIMEOUT_S: Final = 10.0


class DtlsTransport:
    """A DTLS association with a server, one datagram per message.

    Args:
        sock: owned from now on.
        connection: a client's end.
        server: the other end.
    """

    is_stream = False

    def __init__(self, sock: UdpSocket, connection: DtlsConnection, server: TransportAddress) -> None:
        self._socket = sock
        self._connection = connection
        self._server = server
        if isinstance(sock, SetsFragments):
            sock.allow_fragments()  # a record adds to each message, which may then be too long for the way

    @property
    def local_address(self) -> TransportAddress:
        """Our end."""
        return self._socket.local_address

    @property
    def server_address(self) -> TransportAddress:
        """The server."""
        return self._server

    async def do_handshake(self) -> None:
        """Shake hands, however long it takes.

        Raises:
            OSError: it failed, or the system says that nobody is there.
        """
        connection = self._connection
        while not connection.is_open and connection.ended is None:
            self._flush()
            wait_s = connection.timeout()
            with trio.move_on_after(float("inf") if wait_s is None else wait_s) as patience:
                for batch in await self._socket.receive():
                    if batch.remote == self._server:
                        for datagram in batch.datagrams():
                            connection.handle_datagram(datagram)
                if any(error.errno == errno.ECONNREFUSED for error in self._errors()):
                    raise ConnectionRefusedError(f"nothing listens over UDP at {self._server}")
            if patience.cancelled_caught:
                connection.handle_timeout()
        self._flush()
        if connection.ended is not None:
            raise OSError(connection.ended)

    async def run(self) -> None:
        """Nothing has to be done in the background."""
        await trio.lowlevel.checkpoint()

    def send_nowait(self, messages: Sequence[bytes]) -> int:
        """Encrypt and send what the socket takes."""
        datagrams = self._encrypt(messages)
        sent = self._socket.send_nowait(datagrams, self._server)
        return len(messages) if sent == len(datagrams) else sent

    async def send(self, messages: Sequence[bytes]) -> None:
        """Encrypt and send all."""
        await self._socket.send(self._encrypt(messages), self._server)

    async def receive(self) -> list[Batch]:
        """Wait for messages; everybody else's datagrams are dropped."""
        if self._connection.ended is not None:
            raise trio.BrokenResourceError(self._connection.ended)
        messages: list[bytes] = []
        for batch in await self._socket.receive():
            if batch.remote == self._server:
                for datagram in batch.datagrams():
                    messages += self._connection.handle_datagram(datagram)
        self._flush()
        return batches_of(self._server, messages)

    def take_errors(self) -> int:
        """Return how many ICMP errors about the server arrived."""
        return len(self._errors())

    def close(self) -> None:
        """Say goodbye, and close the socket."""
        self._connection.close()
        with contextlib.suppress(trio.ClosedResourceError):  # closed before
            self._flush()
        self._socket.close()

    def _errors(self) -> list[IcmpError]:
        return [error for error in self._socket.take_errors() if error.remote == self._server]

    def _encrypt(self, messages: Sequence[bytes]) -> list[bytes]:
        try:
            return [self._connection.encrypt(one) for one in messages if 0 < len(one) <= MAX_MESSAGE]
        except OSError:
            raise trio.ClosedResourceError(CLOSED) from None

    def _flush(self) -> None:
        datagrams = self._connection.take_datagrams()
        if datagrams:
            self._socket.send_nowait(datagrams, self._server)  # what finds no room is lost, and sent again


async def open_dtls(sock: UdpSocket, server: TransportAddress, name: str, ca_file: str | None) -> DtlsTransport:
    """Connect to a server over DTLS 1.2.

    Args:
        sock: owned from now on.
        server: the server's address.
        name: host name or IP literal its certificate must carry.
        ca_file: certificates to trust, PEM; None for the system's.
    Raises:
        OSError: the handshake fails or takes too long, or the certificate is not good for `name`.
        LocalError: the certificates to trust cannot be read.
    """
    judge = _Judge(name)
    try:
        transport = DtlsTransport(sock, DtlsConnection.connect(_context(judge, ca_file)), server)
        with trio.fail_after(HANDSHAKE_TIMEOUT_S):
            await transport.do_handshake()
    except trio.TooSlowError:
        sock.close()
        raise TimeoutError(f"{name} did not finish the DTLS handshake in {HANDSHAKE_TIMEOUT_S:g} s") from None
    except OSError as error:
        sock.close()
        if judge.has_refused:
            message = f"the DTLS server's certificate is not good for {name}, or nobody we trust vouches for it"
            raise OSError(message) from error
        raise OSError(f"the DTLS handshake with {name} failed: {error}") from error
    except BaseException:
        sock.close()
        raise
    return transport


class _Judge:
    """Says whether a chain of certificates is good for a name; OpenSSL has verified the chain by itself."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.has_refused = False

    def __call__(
        self, _connection: SSL.Connection, certificate: X509, _errno: int, depth: int, chain_is_good: int
    ) -> bool:
        is_good = bool(chain_is_good)
        if is_good and depth == 0:
            is_good = names_match(certificate.to_cryptography(), self._name)
        self.has_refused |= not is_good
        return is_good


def _context(judge: _Judge, ca_file: str | None) -> SSL.Context:
    context = prepare(SSL.Context(SSL.DTLS_METHOD))
    try:
        if ca_file is None:
            context.set_default_verify_paths()
        else:
            context.load_verify_locations(ca_file)
    except SSL.Error as error:
        raise LocalError(f"the certificates in {ca_file} cannot be read") from error
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, judge)
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
