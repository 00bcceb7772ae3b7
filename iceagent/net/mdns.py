"""Multicast DNS for the names of mDNS candidates: a resolver and a responder that share the port with others.

Queries go out twice: from the mDNS port, so that answers by multicast are heard, and from a port of our own, whose
answers come to us alone (RFC 6762 section 6.7) even where another program on this machine holds the mDNS port. The
first ones ask for an answer by unicast (section 5.4): what was multicast in the last second may not be multicast again
(section 6), and a name that is looked up was often announced a moment ago. For the same reason announcements of names
such as candidates have are remembered for as long as we listen. Names are random, so none is probed for (section 8).

Source: RFC 6762; draft-ietf-mmusic-mdns-ice-candidates.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import trio

from iceagent.core.address import TransportAddress
from iceagent.core.token_bucket import TokenBucket
from iceagent.net import mdns_packets as packets
from iceagent.net.api import Network, OpensMulticast, RealHost, UdpSocket
from iceagent.net.tasks import PerRun, contained

logger = logging.getLogger("iceagent.net")

LOOKUP_S: Final = 8.0  # ours: a name is given up then; a candidate that late is of little use
QUERIES_AT_S: Final = (0.0, 1.0, 3.0)  # RFC 6762 section 5.2: a second apart, then at least twice as long
IPV6_PATIENCE_S: Final = 0.05  # RFC 8305 section 3: for so long an IPv4 address waits for an IPv6 one
ANNOUNCE_AGAIN_S: Final = 1.0  # RFC 6762 section 8.3
MULTICAST_GAP_S: Final = 1.0  # RFC 6762 section 6: one record on one link, at most so often
MAX_LOOKUPS: Final = 32  # ours: names looked up at a time
MAX_CACHED: Final = 64  # ours: answers and announcements; the oldest goes first
MAX_PUBLISHED: Final = 32  # ours
MAX_SOCKETS: Final = 16  # ours: links of one agent
MESSAGES_PER_S: Final = (
    50.0  # ours: read or sent by all agents of a machine together; the draft's section 6.1 wants one
)
MESSAGES_BURST: Final = 200.0  # ours


_ANNOUNCED: Final = re.compile(rb"\x24[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\x05local\0")
"""A name as the draft's section 3.1.1 makes them, a random UUID, in the lower-cased bytes of a message."""


_RESPONSE: Final = 0x80  # of a message's third byte: RFC 1035 section 4.1.1


def _make_allowances() -> tuple[TokenBucket, TokenBucket]:
    now = trio.current_time()
    return TokenBucket(MESSAGES_PER_S, MESSAGES_BURST, now), TokenBucket(MESSAGES_PER_S, MESSAGES_BURST, now)


_allowances: Final = PerRun("iceagent.net.mdns", _make_allowances)


def _allowances_for(network: Network) -> tuple[TokenBucket, TokenBucket]:
    """Return what may be sent and what is read; hosts of a virtual network stand alone."""
    return network.shared(_allowances) if isinstance(network, RealHost) else _make_allowances()


@dataclass(slots=True, eq=False)
class _Link:
    """One address of ours: `member` hears the group and answers, None where the port is not to be had; `asker` asks."""

    host: str
    interface: str
    asker: UdpSocket
    member: UdpSocket | None

    @property
    def group(self) -> TransportAddress:
        if ":" not in self.host:
            return TransportAddress(packets.GROUPS[4], packets.PORT)
        return TransportAddress(f"{packets.GROUPS[6]}%{self.interface}", packets.PORT)

    def close(self) -> None:
        self.asker.close()
        if self.member is not None:
            self.member.close()


@dataclass(slots=True, eq=False)
class _Lookup:
    """A name being looked up, and the first address of each family that was answered."""

    found: dict[int, str] = field(default_factory=dict)
    any: trio.Event = field(default_factory=trio.Event)
    done: trio.Event = field(default_factory=trio.Event)


class Mdns:
    """Looks up and publishes names on the links it has joined. Made by `open_mdns`."""

    def __init__(self, network: Network, nursery: trio.Nursery, randbytes: Callable[[int], bytes]) -> None:
        self._network = network
        self._nursery = nursery
        self._randbytes = randbytes
        self._may_send, self._may_read = _allowances_for(network)
        self._links: dict[str, _Link] = {}
        self._on_link: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
        self._published: dict[str, packets.Record] = {}
        self._announced_at: dict[tuple[str, str], float] = {}
        self._lookups: dict[str, _Lookup] = {}
        self._cache: dict[str, tuple[float, str]] = {}

    # Links

    async def join(self, hosts: Iterable[str]) -> None:
        """Be on the links of these addresses of ours, and on no others."""
        wanted = dict.fromkeys(hosts)
        for host in [host for host in self._links if host not in wanted]:
            self._links.pop(host).close()
        try:
            interfaces = self._network.interfaces()
        except OSError as error:
            logger.debug("mDNS: no link is joined now: %s", error)
            return
        self._on_link = tuple(
            ipaddress.ip_interface(f"{entry.host.partition('%')[0]}/{entry.prefix_length}").network
            for entry in interfaces
        )
        names = {entry.host: entry.name for entry in interfaces}
        for host in wanted:
            if host not in self._links and host in names and len(self._links) < MAX_SOCKETS:
                await self._join(host, names[host])

    async def _join(self, host: str, interface: str) -> None:
        try:
            asker = await self._network.open_udp(host)
        except OSError as error:
            logger.debug("mDNS: %s cannot be bound: %s", host, error)
            return
        member = None
        if isinstance(self._network, OpensMulticast):
            try:
                member = await self._network.open_multicast(packets.GROUPS[6 if ":" in host else 4], packets.PORT, host)
            except OSError as error:
                logger.debug("mDNS: the group cannot be joined at %s: %s", host, error)
            except BaseException:
                asker.close()
                raise
        link = self._links[host] = _Link(host, interface, asker, member)
        for sock in (asker, member):
            if sock is not None:
                self._nursery.start_soon(self._receive, link, sock)

    def close(self) -> None:
        """Take back what is published, and leave all links. Idempotent."""
        for name in list(self._published):
            self.withdraw(name)
        for link in self._links.values():
            link.close()
        self._links.clear()

    # Publishing

    def publish(self, host: str) -> str | None:
        """Give one of our addresses a random name; None where nobody could ask for it.

        Source: the draft, section 3.1.1.
        """
        link = self._links.get(host)
        if link is None or link.member is None or len(self._published) >= MAX_PUBLISHED:
            return None
        name = f"{uuid.UUID(bytes=self._randbytes(16), version=4)}.local"
        record = self._published[name] = packets.Record(name, host.partition("%")[0], packets.HOST_TTL_S)
        self._announce(record, link.interface)
        self._nursery.start_soon(self._announce_again, record, link.interface)
        return name

    def withdraw(self, name: str) -> None:
        """Say goodbye to a name: who knows it forgets it. Source: RFC 6762 section 10.1."""
        record = self._published.pop(name, None)
        if record is not None:
            self._announced_at = {key: at for key, at in self._announced_at.items() if key[0] != name}
            gone = packets.Record(record.name, record.host, 0)
            for link in self._links.values():
                self._send(link.member, packets.encode_answer(gone), link.group)

    async def _announce_again(self, record: packets.Record, interface: str) -> None:
        await trio.sleep(ANNOUNCE_AGAIN_S)
        if record.name in self._published:
            self._announce(record, interface)

    def _announce(self, record: packets.Record, interface: str) -> None:
        for link in self._links.values():
            if link.interface == interface:
                self._announce_to_group(link, record)

    def _announce_to_group(self, link: _Link, record: packets.Record) -> None:
        now, key = trio.current_time(), (record.name, link.host)
        if now < self._announced_at.get(key, -MULTICAST_GAP_S) + MULTICAST_GAP_S:
            return
        self._announced_at[key] = now
        self._send(link.member, packets.encode_answer(record), link.group)

    def _answer(self, link: _Link, remote: TransportAddress, message: packets.MdnsMessage) -> None:
        known = {record.name for record in message.records if record.ttl_s >= packets.HOST_TTL_S / 2}
        asked = {question.name: question for question in message.questions}
        for name, question in asked.items():
            record = self._published.get(name)
            if record is None or name in known or not self._is_at(record, link):
                continue  # RFC 6762 section 7.1: he knows it; section 6.2: it is another link's
            if remote.port != packets.PORT:
                families = tuple(family for one in message.questions if one.name == name for family in one.families)
                legacy = packets.MdnsQuestion(name, families)
                answer = packets.encode_answer(record, legacy_id=message.message_id, legacy=legacy)
                self._send(link.member, answer, remote)
            elif question.by_unicast:
                self._send(link.member, packets.encode_answer(record), remote)
            else:
                self._announce_to_group(link, record)

    def _is_at(self, record: packets.Record, link: _Link) -> bool:
        return any(
            other.interface == link.interface and other.host.partition("%")[0] == record.host
            for other in self._links.values()
        )

    # Looking up

    async def resolve(self, name: str) -> str | None:
        """Return the address of a name; None if nobody on our links says. Takes `LOOKUP_S` at most.

        Exactly one address is taken, of all that there are: the first IPv6 one, or the first IPv4 one if there is none.
        Source: the draft, section 3.2.1.
        """
        name = name.lower()
        await trio.lowlevel.checkpoint()
        cached = self._cache.get(name)
        if cached is not None and trio.current_time() < cached[0]:
            return cached[1]
        lookup = self._lookups.get(name)
        if lookup is not None:
            with trio.move_on_after(LOOKUP_S):
                await lookup.done.wait()
            return lookup.found.get(6) or lookup.found.get(4)
        if len(self._lookups) >= MAX_LOOKUPS or not self._links:
            return None
        lookup = self._lookups[name] = _Lookup()
        try:
            with trio.move_on_after(LOOKUP_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._ask, name)
                    await lookup.any.wait()
                    with trio.move_on_after(IPV6_PATIENCE_S):
                        await lookup.done.wait()
                    nursery.cancel_scope.cancel()
        finally:
            del self._lookups[name]
            lookup.done.set()
        return lookup.found.get(6) or lookup.found.get(4)

    async def _ask(self, name: str) -> None:
        started_at = trio.current_time()
        for offset_s in QUERIES_AT_S:
            await trio.sleep_until(started_at + offset_s)
            query = packets.encode_query(name, by_unicast=not offset_s)
            for link in self._links.values():
                self._send(link.asker, query, link.group)
                self._send(link.member, query, link.group)

    def _learn(self, message: packets.MdnsMessage) -> None:
        now = trio.current_time()
        for record in message.records:
            lookup = self._lookups.get(record.name)
            if not record.ttl_s:
                self._cache.pop(record.name, None)
                continue
            if lookup is None:
                if _is_random(record.name) and record.name not in self._published:
                    self._remember(now, record, record.host)
                continue
            family = 6 if ":" in record.host else 4
            lookup.found.setdefault(family, record.host)
            self._remember(now, record, lookup.found.get(6) or lookup.found[4])
            lookup.any.set()
            if family == 6 or record.name in message.complete:
                lookup.done.set()

    def _remember(self, now: float, record: packets.Record, host: str) -> None:
        """Keep the address of a name for as long as the record says; an IPv6 one is not replaced by an IPv4 one."""
        held = self._cache.pop(record.name, None)
        if held is not None and now < held[0] and ":" in held[1] and ":" not in host:
            host = held[1]
        if len(self._cache) >= MAX_CACHED:
            self._cache.pop(next(iter(self._cache)))
        self._cache[record.name] = (now + min(record.ttl_s, packets.HOST_TTL_S), host)

    # Datagrams

    async def _receive(self, link: _Link, sock: UdpSocket) -> None:
        with suppress(trio.ClosedResourceError):  # which is how it ends
            while True:
                for batch in await sock.receive():
                    for datagram in batch.datagrams():
                        with contained("a packet of mDNS"):
                            self._handle_untrusted(link, batch.remote, datagram)
                sock.take_errors()

    def _handle_untrusted(self, link: _Link, remote: TransportAddress, data: bytes) -> None:
        """Deal with a datagram; what is not about a name of ours, or not from this link, costs next to nothing."""
        lowered = data.lower()
        is_ours = any(name[:-6].encode() in lowered for name in (*self._lookups, *self._published))
        is_response = bool(data[2] & _RESPONSE) if len(data) > 2 else False
        if (
            not (is_ours or (is_response and _ANNOUNCED.search(lowered)))
            or not self._is_near(remote)
            or not self._may_read.take(trio.current_time())
        ):
            return
        message = packets.parse_untrusted(data)
        if message is None:
            return
        if not message.is_response:
            self._answer(link, remote, message)
        elif remote.port == packets.PORT:  # RFC 6762 section 6: others are to be ignored
            self._learn(message)

    def _is_near(self, remote: TransportAddress) -> bool:
        """Whether a packet comes from one of our links. Source: RFC 6762 section 11."""
        ip = ipaddress.ip_address(remote.host.partition("%")[0])
        return ip.is_link_local or any(ip.version == net.version and ip in net for net in self._on_link)

    def _send(self, sock: UdpSocket | None, data: bytes, remote: TransportAddress) -> None:
        if sock is not None and self._may_send.take(trio.current_time()):
            with suppress(trio.ClosedResourceError):
                sock.send_nowait((data,), remote)


def _is_random(name: str) -> bool:
    return _ANNOUNCED.fullmatch(b"\x24" + name.removesuffix(".local").encode() + b"\x05local\0") is not None


@asynccontextmanager
async def open_mdns(network: Network, *, randbytes: Callable[[int], bytes]) -> AsyncIterator[Mdns]:
    """Open a resolver and responder that is on no link yet; when the body ends, names are taken back."""
    async with trio.open_nursery() as nursery:
        mdns = Mdns(network, nursery, randbytes)
        try:
            yield mdns
        finally:
            mdns.close()
            nursery.cancel_scope.cancel()
