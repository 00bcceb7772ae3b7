"""A STUN and TURN server on Trio: the shell around `iceagent.core.turn.server`."""

from __future__ import annotations

import secrets
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import trio

from iceagent.core.address import TransportAddress
from iceagent.core.stun import BehaviourServer, BindingServer
from iceagent.core.stun.rate_limit import home_of
from iceagent.core.turn.server import (
    AllocationChanged,
    AllocationState,
    ClientPath,
    CloseConnection,
    CloseRelay,
    ConnectPeer,
    Event,
    JoinConnection,
    OpenRelay,
    PeerDatagrams,
    SharedSecretUsers,
    ToClient,
    TurnServer,
)
from iceagent.net import SystemNetwork
from iceagent.net.api import Network, RealHost, SetsFragments, UdpSocket
from iceagent.net.machine import MachineTimer
from iceagent.net.tasks import open_background
from iceagent.net.tcp import bound_address
from iceagent.servers.turn_addresses import AddressWatch, make_config
from iceagent.servers.turn_dtls import DtlsClient, DtlsListener
from iceagent.servers.turn_metrics import render
from iceagent.servers.turn_options import TurnOptions, TurnOptionsError, make_users
from iceagent.servers.turn_relay import RelaySockets, Sender
from iceagent.servers.turn_stream import Doorkeeper, StreamClient, StreamListener, serve_stream
from iceagent.servers.turn_tcp_relay import TcpRelays
from iceagent.servers.turn_tls import Certificates
from iceagent.servers.turn_udp import UdpListener

TLS_PORT: Final = 5349  # RFC 8656 section 6
_PORT_ATTEMPTS = 16  # at finding one port that is free for both UDP and TCP, when the system chooses
StreamOrDtlsClient = StreamClient | DtlsClient


class TurnService:
    """A running server; made by `open_turn_server`.

    Attributes:
        options: what it was started with.
        network: where its sockets are.
        core: the sans-IO server.
        binding: answers Binding requests.
        addresses: where it listens, as (transport, address).
    """

    def __init__(
        self,
        options: TurnOptions,
        network: Network,
        core: TurnServer,
        credentials: SharedSecretUsers | None,
        certificates: Certificates | None,
        nursery: trio.Nursery,
    ) -> None:
        self.options = options
        self.network = network
        self.core = core
        self.binding = BindingServer(software=options.software)
        self.addresses: list[tuple[str, TransportAddress]] = []
        self._behaviour = (
            None if options.alternate is None else BehaviourServer(self.binding, options.listen[0], options.alternate)
        )
        self._credentials = credentials
        self._nursery = nursery
        self._relays = RelaySockets(self)
        self.tcp_relays = TcpRelays(self)
        self.doorkeeper = Doorkeeper(options.max_connections, options.max_connections_per_source, core.counters)
        self.certificates = certificates
        self._clients: dict[ClientPath, StreamOrDtlsClient] = {}
        self._udp: dict[TransportAddress, UdpSocket] = {}
        self._senders: dict[ClientPath, Sender] = {}
        self._addresses = AddressWatch(self)
        self._translated: dict[str, str] = {}  # behind a one-to-one NAT
        self.note_relay_hosts()
        self._timer = MachineTimer(core, self.settle)
        self._changed = trio.Event()

    # -- for users

    @property
    def counters(self) -> Counter[str]:
        """What became of requests and datagrams, by reason."""
        return self.core.counters

    @property
    def address(self) -> TransportAddress:
        """The first address it listens at."""
        return self.addresses[0][1]

    def make_credentials(self, name: str, lifetime_s: float) -> tuple[str, str]:
        """Return user name and password of a short-lived credential.

        Raises:
            TurnOptionsError: the server has no secret.
        """
        if self._credentials is None:
            raise TurnOptionsError("short-lived credentials need a secret")
        return self._credentials.make(name, lifetime_s)

    def make_credentials_at(self, host: str, lifetime_s: float) -> tuple[str, str]:
        """Return the same for whoever asks from a host; quotas bind all that is made for one host together.

        A host is an IPv4 address, or an IPv6 address or /64, which counts by its /56: that is what a home has. The name
        does not reveal the address.

        Raises:
            TurnOptionsError: the server has no secret.
        """
        if self._credentials is None:
            raise TurnOptionsError("short-lived credentials need a secret")
        return self._credentials.make(self._credentials.person(home_of(host)), lifetime_s)

    def metrics(self) -> bytes:
        """Return the server's metrics in Prometheus' text format.

        Raises:
            TurnOptionsError: prometheus-client is not installed.
        """
        return render(self)

    @property
    def is_draining(self) -> bool:
        """Whether new allocations are refused."""
        return self.core.is_draining

    async def drain(self, deadline_s: float) -> None:
        """Refuse new allocations; return when the last one has ended, or after `deadline_s`."""
        self.core.drain()
        with trio.move_on_after(deadline_s):
            while self.core.allocations:
                self._changed = trio.Event()
                await self._changed.wait()

    # -- for the parts of the shell

    def settle(self) -> None:
        """Do what the core asks for: send, open, close. To be called after each call to the core that may ask."""
        core = self.core
        while (transmit := core.poll_transmit()) is not None:
            if isinstance(transmit, ToClient):
                self.sender_to(transmit.path)([transmit.data])
            else:
                self._relays.send_one(transmit)
        while (event := core.poll_event()) is not None:
            self._handle(event)
        self._timer.follow()

    def _handle(self, event: Event) -> None:
        if isinstance(event, OpenRelay):
            run = self._relays.run if event.relay.transport == "udp" else self.tcp_relays.run
            self._nursery.start_soon(run, event.relay)
        elif isinstance(event, CloseRelay):
            self._relays.close(event.relay)
            self.tcp_relays.close(event.relay)
        elif isinstance(event, AllocationChanged):
            self._changed.set()
            client = self._clients.get(event.allocation.path)
            if client is None:
                self._senders.pop(event.allocation.path, None)
            else:
                client.note_allocation(exists=event.allocation.state is not AllocationState.CLOSED)
        elif isinstance(event, ConnectPeer):
            self._nursery.start_soon(self.tcp_relays.connect, event.connection)
        elif isinstance(event, CloseConnection):
            self.tcp_relays.close_connection(event.connection)
        else:
            self._join(event)

    def _join(self, event: JoinConnection) -> None:
        path = event.connection.path
        client = None if path is None else self._clients.get(path)
        if isinstance(client, StreamClient):
            client.join(event.connection)

    async def run_client(
        self, path: ClientPath, send: Sender, client: StreamOrDtlsClient, run: Callable[[], Awaitable[None]]
    ) -> None:
        """Run a connected client; at its end its allocation and its connections end, too.

        One whose 5-tuple another has, as proxies may claim, is not served: it would have the other's allocation.
        """
        if path in self._clients:
            self.counters["path_in_use"] += 1
            return
        self._senders[path] = send
        self._clients[path] = client
        try:
            await run()
        finally:
            del self._senders[path]
            del self._clients[path]
            self.core.handle_client_gone(trio.current_time(), path)
            self.settle()

    def forward(self, forwards: list[PeerDatagrams]) -> None:
        """Send to peers what there is room for; the rest is lost, as on any congested link."""
        for relay, peer, datagrams in forwards:
            sock = self._relays.get(relay)
            if sock is None:
                continue
            lost = len(datagrams) - sock.send_nowait(datagrams, self.bound(peer) if self._translated else peer)
            if lost:
                self.counters["peer_buffer_full"] += lost

    def answer_binding(self, now: float, local: TransportAddress, remote: TransportAddress, data: bytes) -> None:
        """Answer a Binding request that came over UDP, perhaps from another address than it came to."""
        if self._behaviour is not None and local in self._behaviour.addresses:
            reply = self._behaviour.handle_datagram(now, local, remote, data)
            if reply is not None:
                self._send_from(reply.source, [reply.data], reply.target)
            return
        answer = self.binding.handle_datagram(now, local, remote, data)
        if answer is not None:
            self._send_from(local, [answer], remote)

    def _send_from(self, local: TransportAddress, datagrams: list[bytes], remote: TransportAddress) -> int:
        """Send from an address that we listen at, by name or within a wildcard; return how many were taken."""
        sock, source = self._udp_at(local)
        return 0 if sock is None else sock.send_nowait(datagrams, remote, source=source)

    def _udp_at(self, local: TransportAddress) -> tuple[UdpSocket | None, str | None]:
        """Return the socket that stands for an address, and which of its addresses that is if it has several."""
        sock = self._udp.get(local)
        if sock is not None:
            return sock, None
        wildcard = TransportAddress("::" if local.family == 6 else "0.0.0.0", local.port)  # noqa: S104 (a key)
        return self._udp.get(wildcard), local.host

    def sender_to(self, path: ClientPath) -> Sender:
        """Return what takes messages for a client."""
        sender = self._senders.get(path)
        if sender is None:
            sender = self._udp_sender(path)
            if path in self.core.allocations:  # and is forgotten with it
                self._senders[path] = sender
        return sender

    def _udp_sender(self, path: ClientPath) -> Sender:
        sock, source = self._udp_at(path.local) if path.transport == "udp" else (None, None)

        def send(messages: list[bytes]) -> None:
            if sock is None:
                self.counters["client_gone"] += len(messages)
                return
            lost = len(messages) - sock.send_nowait(messages, path.remote, source=source)
            if lost:
                self.counters["client_buffer_full"] += lost

        return send

    def note_relay_hosts(self) -> None:
        """Take note that the core's relay hosts are others now."""
        self._translated = {bound: public for bound, public in self.core.relay_hosts.items() if bound != public}

    def announced(self, remote: TransportAddress) -> TransportAddress:
        """Return what clients know a peer as: relays of ours that meet behind a one-to-one NAT are told apart so."""
        public = self._translated.get(remote.host) if self._translated else None
        return remote if public is None else TransportAddress(public, remote.port)

    def bound(self, peer: TransportAddress) -> TransportAddress:
        """Return where a relay of ours is really bound, so that nothing needs to return through the NAT."""
        for bound, public in self._translated.items():
            if public == peer.host:
                return TransportAddress(bound, peer.port)
        return peer

    def start(self) -> None:
        """Start what runs beside the listeners."""
        self._nursery.start_soon(self._timer.run)
        self._nursery.start_soon(self._relays.run_poll)
        self._nursery.start_soon(self._addresses.run)

    def close_all(self) -> None:
        """Close what a nursery does not."""
        self._relays.close_all()
        self.tcp_relays.close_all()

    async def listen(self, stack: AsyncExitStack) -> None:
        """Bind every address there is to listen at.

        Raises:
            OSError: an address is not ours or its port taken.
        """
        for wanted in (*self.options.listen, *self._discovery_addresses()):
            address = await self._with_port(wanted)
            sock = await self.network.open_udp(address.host, address.port)
            stack.callback(sock.close)
            bound = sock.local_address
            self._udp[bound] = sock
            if self._behaviour is not None and isinstance(sock, SetsFragments):
                sock.allow_fragments()  # RFC 5780 section 7.6: a padded answer is there to be cut
            if len(self.addresses) < len(self.options.listen):
                self.addresses.append(("udp", bound))
            self._nursery.start_soon(UdpListener(self, sock).run)
        for address in self._tcp_addresses():
            await self._listen_stream(address, None)
        if self.certificates is not None:
            await self._listen_tls(stack, self.certificates)

    async def _with_port(self, address: TransportAddress) -> TransportAddress:
        """Return `address`; if it names no port, with one that is free both for UDP and for TCP."""
        if address.port or not isinstance(self.network, RealHost):
            return address
        for _ in range(_PORT_ATTEMPTS):
            sock = await self.network.open_udp(address.host)
            try:
                listener = await self.network.listen_tcp(address.host, sock.local_address.port)
            except OSError:
                continue
            finally:
                sock.close()
            await listener.aclose()
            return sock.local_address
        return address

    def _discovery_addresses(self) -> list[TransportAddress]:
        """Return where to listen beside `listen` for NAT behaviour discovery."""
        return (
            []
            if self._behaviour is None
            else [one for one in self._behaviour.addresses if one not in self.options.listen]
        )

    def _tcp_addresses(self) -> Sequence[TransportAddress]:
        """Return where to listen for TCP: where UDP is unless configured otherwise, with the same port numbers."""
        if self.options.tcp_listen is not None:
            return self.options.tcp_listen
        if not isinstance(self.network, RealHost):
            return ()
        return [address for _, address in self.addresses]

    async def _listen_stream(self, address: TransportAddress, context: ssl.SSLContext | None) -> TransportAddress:
        listener = await self.network.listen_tcp(address.host, address.port)
        bound = TransportAddress(address.host, bound_address(listener).port)
        self.addresses.append(("tcp" if context is None else "tls", bound))
        self._nursery.start_soon(StreamListener(self, listener, context).run)
        return bound

    async def serve_stream(
        self, stream: trio.abc.Stream, local: TransportAddress, remote: TransportAddress, settle: Callable[[], None]
    ) -> None:
        """Serve a client over TLS whom another server on the same port has accepted; see `turn_stream.serve_stream`."""
        await serve_stream(self, stream, local, remote, settle)

    def note_shared(self, address: TransportAddress) -> None:
        """Take note that another server hands over, by `serve_stream`, whoever speaks STUN over TLS at an address."""
        self.addresses.append(("tls", address))

    async def _listen_tls(self, stack: AsyncExitStack, certificates: Certificates) -> None:
        default = [TransportAddress(one.host, TLS_PORT if one.port else 0) for one in self.options.listen]
        for address in self.options.tls_listen or dict.fromkeys(default):
            bound = await self._listen_stream(await self._with_port(address), certificates.tls)
            if certificates.dtls is not None:
                sock = await self.network.open_udp(bound.host, bound.port)
                stack.callback(sock.close)
                self.addresses.append(("dtls", sock.local_address))
                self._nursery.start_soon(DtlsListener(self, sock, certificates.dtls).run)

    def reload_certificates(self) -> None:
        """Read certificate and key again; connections that stand keep what they have.

        Raises:
            TurnOptionsError: the files cannot be used; the old ones stay.
        """
        if self.certificates is not None:
            self.certificates.reload()


@asynccontextmanager
async def open_turn_server(
    options: TurnOptions,
    *,
    network: Network | None = None,
    randbytes: Callable[[int], bytes] = secrets.token_bytes,
) -> AsyncGenerator[TurnService, None]:
    """Serve STUN and TURN for as long as the block runs.

    Args:
        options: what to serve to whom.
        network: where to bind; this machine by default. Of another one TCP must be asked for; DTLS needs this machine.
        randbytes: for ports, nonces, tokens and keys; only tests pass another than `secrets.token_bytes`.

    Raises:
        OSError: an address is not ours or its port taken.
        TurnOptionsError, PolicyError: the options cannot work.
    """
    here = network if network is not None else SystemNetwork()
    users, credentials = make_users(options)
    core = TurnServer(make_config(options, here, users), randbytes=randbytes)
    certificates = None if options.tls is None else Certificates(options.tls, dtls=options.dtls)
    async with AsyncExitStack() as stack, open_background() as nursery:
        service = TurnService(options, here, core, credentials, certificates, nursery)
        try:
            await service.listen(stack)
            service.start()
            yield service
        finally:  # cancelled or not: nothing here waits
            core.close(trio.current_time())
            service.settle()
            service.close_all()
