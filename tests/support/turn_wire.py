"""A TURN server on real sockets at loopback, and clients for it over every transport."""

from __future__ import annotations

import datetime
import random
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from turn_bench import REALM, Client, error_of

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.turn.channel_data import StreamFrames
from iceagent.net import SystemNetwork
from iceagent.net.api import UdpSocket
from iceagent.servers import TlsFiles, TurnOptions

LOOPBACK = TransportAddress("127.0.0.1", 0)


def options(**changes: object) -> TurnOptions:
    """Return options for development: loopback, free ports, two users."""
    plain = TurnOptions(
        [LOOPBACK], realm=REALM, users={"george": "secret", "ringo": "drums"}, loopback=True, tls_listen=[LOOPBACK]
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def make_certificate(folder: Path, name: str = "server") -> TlsFiles:
    """Write a self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = TlsFiles(folder / f"{name}.crt", folder / f"{name}.key")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def trusting(files: TlsFiles) -> ssl.SSLContext:
    """Return a client's context that trusts only this certificate."""
    return ssl.create_default_context(cafile=str(files.certificate))


@dataclass
class WireClient:
    """A client on some transport: `send` takes a message, `receive` returns the next one."""

    send: Any
    receive: Any
    maker: Client = field(
        default_factory=lambda: Client(SimpleNamespace(random=random.Random(1)))  # type: ignore[arg-type]
    )

    async def request(self, method: int, *attributes: stun.Attribute) -> stun.Message:
        """Send a request with credentials and return its answer; what comes before it is thrown away."""
        for _ in range(2):
            data = self.maker.encode(method, *attributes)
            await self.send(data)
            answer = await self.receive()
            while answer[8:20] != data[8:20]:
                answer = await self.receive()
            message = stun.decode(answer)
            nonce = message.get(stun.Nonce)
            if nonce is None or error_of(message) not in (401, 438):
                return message
            self.maker.nonce = nonce.value
        return message

    async def allocate(self, transport: int = stun.TRANSPORT_UDP, *more: stun.Attribute) -> TransportAddress:
        """Return a relayed address."""
        answer = await self.request(stun.Method.ALLOCATE, stun.RequestedTransport(transport), *more)
        relayed = answer.get(stun.XorRelayedAddress)
        assert relayed is not None, error_of(answer)
        return relayed.address

    async def permit(self, peer: TransportAddress) -> None:
        assert error_of(await self.request(stun.Method.CREATE_PERMISSION, stun.XorPeerAddress(peer))) is None

    async def bind(self, number: int, peer: TransportAddress) -> None:
        answer = await self.request(stun.Method.CHANNEL_BIND, stun.ChannelNumber(number), stun.XorPeerAddress(peer))
        assert error_of(answer) is None


@asynccontextmanager
async def udp_client(server: TransportAddress) -> AsyncGenerator[tuple[WireClient, UdpSocket], None]:
    """Yield a client over UDP and its socket."""
    sock = await SystemNetwork().open_udp("127.0.0.1")
    waiting: list[bytes] = []

    async def send(data: bytes) -> None:
        await sock.send([data], server)

    async def receive() -> bytes:
        while not waiting:
            for batch in await sock.receive():
                waiting.extend(batch.datagrams())
        return waiting.pop(0)

    try:
        yield WireClient(send, receive), sock
    finally:
        sock.close()


@asynccontextmanager
async def dtls_client(server: TransportAddress) -> AsyncGenerator[WireClient, None]:
    """Yield a client over DTLS that trusts any certificate."""
    from OpenSSL import SSL

    from iceagent.net.dtls import DtlsConnection, prepare
    from iceagent.net.turn.dtls import DtlsTransport

    sock = await SystemNetwork().open_udp("::" if server.family == 6 else "0.0.0.0")
    transport = DtlsTransport(sock, DtlsConnection.connect(prepare(SSL.Context(SSL.DTLS_METHOD))), server)
    waiting: list[bytes] = []

    async def send(data: bytes) -> None:
        await transport.send([data])

    async def receive() -> bytes:
        while not waiting:
            for batch in await transport.receive():
                waiting.extend(batch.datagrams())
        return waiting.pop(0)

    try:
        await transport.do_handshake()
        yield WireClient(send, receive)
    finally:
        transport.close()


def stream_client(stream: trio.abc.Stream) -> WireClient:
    """Return a client over TCP or TLS."""
    frames = StreamFrames()
    waiting: list[Any] = []

    async def receive() -> bytes:
        while not waiting:
            data = bytes(await stream.receive_some(65536))
            if not data:
                raise trio.BrokenResourceError("closed by the server")
            waiting.extend(frames.feed(data))
        return waiting.pop(0)

    return WireClient(stream.send_all, receive)


@asynccontextmanager
async def echoing_peer() -> AsyncGenerator[TransportAddress, None]:
    """Yield the address of a UDP peer that sends everything back."""
    sock = await SystemNetwork().open_udp("127.0.0.1")

    async def run() -> None:
        while True:
            for batch in await sock.receive():
                await sock.send(batch.datagrams(), batch.remote)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield sock.local_address
            nursery.cancel_scope.cancel()
    finally:
        sock.close()
