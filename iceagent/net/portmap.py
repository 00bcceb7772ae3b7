"""Asks the gateway to map a port, by PCP, NAT-PMP or UPnP, and keeps it mapped while the block runs."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVarTuple

import trio

from iceagent.core.address import TransportAddress
from iceagent.core.constants import PORT_MAPPING_LIFETIME_S, PORT_MAPPING_SERVER_PORT
from iceagent.core.portmap import GatewayProbe, Mapped, MappingFailed, MappingLost, PortMapper, ProbeAnswer
from iceagent.net.api import Network, RealHost
from iceagent.net.gateway import Gateway, find_gateways
from iceagent.net.machine import MachineDriver
from iceagent.net.portmap_upnp import UPNP, UpnpError, UpnpGateway, find_upnp_gateway, is_installed
from iceagent.net.tasks import contained, open_background, run_contained

logger = logging.getLogger("iceagent.net")

RELEASE_S: Final = 1.0  # ours: the longest a block's end waits for the gateway to confirm
UPNP_HEAD_START_S: Final = 1.0  # ours: for PCP and NAT-PMP, which need no web server; both map the same port otherwise
UPNP_RETRY_S: Final = 300.0  # ours
PROBE_S: Final = 6.0  # ours: UPnP's discovery asks four times


_Args = TypeVarTuple("_Args")


@dataclass(frozen=True, slots=True)
class MappedPort:
    """A port the gateway lends: `external` leads to `internal`. `protocol` is `pcp`, `nat-pmp` or `upnp`."""

    protocol: str
    external: TransportAddress
    internal: TransportAddress


class PortMapping:
    """The mappings of one local port; made by `open_port_mapping`."""

    def __init__(self, local: TransportAddress) -> None:
        self.local = local
        self.failures: dict[str, str] = {}
        self._held: dict[str, MappedPort] = {}
        self._changed = trio.Event()
        self._open = 0

    @property
    def addresses(self) -> tuple[MappedPort, ...]:
        """What is mapped now."""
        return tuple(self._held.values())

    @property
    def settled(self) -> bool:
        """Whether something is mapped, or nothing will be for now."""
        return bool(self._held) or self._open == 0

    async def wait_changed(self) -> None:
        """Wait until `addresses`, `failures` or `settled` change."""
        await self._changed.wait()

    async def wait_settled(self) -> tuple[MappedPort, ...]:
        """Wait until something is mapped, or it is clear that nothing will be; return what is."""
        await trio.lowlevel.checkpoint()
        while not self.settled:
            await self._changed.wait()
        return self.addresses

    # For those who map

    def begin(self, count: int) -> None:
        """Take note of so many ways that are tried."""
        self._open = count

    def gain(self, protocol: str, external: TransportAddress) -> None:
        """Take note of a mapping."""
        logger.info("%s maps %s to port %d", protocol, external, self.local.port)
        self._held[protocol] = MappedPort(protocol, external, self.local)
        self._notify()

    def lose(self, protocol: str) -> None:
        """Take note of its end."""
        if self._held.pop(protocol, None) is not None:
            self._notify()

    def fail(self, protocol: str, reason: str) -> None:
        """Take note that one way leads nowhere for now."""
        logger.debug("%s maps no port: %s", protocol, reason)
        if protocol not in self.failures:
            self._open = max(0, self._open - 1)
        self.failures[protocol] = reason
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@asynccontextmanager
async def open_port_mapping(
    network: Network,
    local_address: TransportAddress,
    *,
    gateways: Sequence[Gateway] | None = None,
    upnp: bool | None = None,
    lifetime_s: int = PORT_MAPPING_LIFETIME_S,
    randbytes: Callable[[int], bytes] = secrets.token_bytes,
) -> AsyncGenerator[PortMapping, None]:
    """Keep a UDP port mapped while the block runs; the body starts at once and looks at `addresses` when it likes.

    The gateway is asked in PCP, then NAT-PMP; if that gives nothing within a second, by UPnP, too. Mappings are
    renewed, and given back at the end, for which the block waits at most a second, also when it is cancelled.

    Args:
        network: where the port is; it must know its gateways.
        local_address: the bound socket to be reached.
        gateways: whom to ask; None for the default gateway of the address's interface.
        upnp: whether to try UPnP, which needs the extra `upnp` and speaks to this machine's own network whatever
            `network` is; None: if that is this machine's.
        lifetime_s: of a mapping that nobody renews.
        randbytes: for nonces.
    """
    mapping = PortMapping(local_address)
    async with open_background() as nursery:
        found = await _gateways_for(network, local_address.host) if gateways is None else list(gateways)
        gateway = next((one for one in found if one.family == local_address.family), None)
        wants_upnp = isinstance(network, RealHost) if upnp is None else upnp
        with_upnp = wants_upnp and gateway is not None and local_address.family == 4 and is_installed()
        mapping.begin((gateway is not None) + with_upnp)
        if gateway is not None:
            nursery.start_soon(
                _alone, mapping, "pcp", _map_at_gateway, network, mapping, gateway, lifetime_s, randbytes
            )
        if with_upnp:
            nursery.start_soon(_alone, mapping, UPNP, _map_by_upnp, mapping, lifetime_s, randbytes)
        yield mapping


async def _alone(mapping: PortMapping, protocol: str, run: Callable[[*_Args], Awaitable[None]], *args: *_Args) -> None:
    """Try one way; whatever its gateway may say, it costs this way alone."""
    with contained(f"{protocol} for {mapping.local}", lambda error: mapping.fail(protocol, "something unforeseen")):
        await run(*args)


async def _gateways_for(network: Network, host: str) -> list[Gateway]:
    """Return the gateways on the interface that has the address: others would not know it."""
    try:
        names = {entry.name for entry in network.interfaces() if entry.host == host}
    except OSError:
        return []  # no descriptors left, say: then there is none for a mapping either
    return [gateway for gateway in await find_gateways(network) if gateway.interface in names]


# PCP and NAT-PMP


async def _map_at_gateway(
    network: Network, mapping: PortMapping, gateway: Gateway, lifetime_s: int, randbytes: Callable[[int], bytes]
) -> None:
    try:
        sock = await network.open_udp(mapping.local.host)
    except OSError as error:
        mapping.fail("pcp", f"no socket: {error}")
        return
    mapper = PortMapper(
        local=sock.local_address,
        server=TransportAddress(gateway.host, PORT_MAPPING_SERVER_PORT),
        internal_port=mapping.local.port,
        randbytes=randbytes,
        lifetime_s=lifetime_s,
    )

    def settle() -> bool:
        while (event := mapper.poll_event()) is not None:
            _take(mapping, event)
        return mapper.finished

    driver = MachineDriver(
        mapper,
        {sock.local_address: sock},
        receive=lambda now, _local, remote, data: mapper.handle_datagram(now, remote, data),
        unreachable=lambda now, _remote: mapper.handle_unreachable(now),
        settle=settle,
    )
    try:
        driver.mutate(mapper.start)
        await driver.run()
    finally:
        was_mapped = mapper.external is not None
        driver.mutate(mapper.release)
        if was_mapped:
            # Where nothing was granted, one request that nobody waits for does: most gateways would not answer.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + RELEASE_S):
                await driver.run()
        sock.close()


def _take(mapping: PortMapping, event: object) -> None:
    if isinstance(event, Mapped):
        mapping.gain(event.protocol, event.external)
    elif isinstance(event, MappingLost):
        mapping.lose(event.protocol)
    elif isinstance(event, MappingFailed):
        mapping.fail(event.protocol, event.reason)


# UPnP


async def _map_by_upnp(mapping: PortMapping, lifetime_s: float, randbytes: Callable[[int], bytes]) -> None:
    with trio.move_on_after(UPNP_HEAD_START_S):
        while not mapping.addresses and not mapping.failures:
            await mapping.wait_changed()
    if mapping.addresses:
        mapping.fail(UPNP, "not needed")
        return
    while True:
        try:
            gateway = await find_upnp_gateway(mapping.local.host)
            await _hold_by_upnp(gateway, mapping, lifetime_s, randbytes)
        except UpnpError as error:
            mapping.lose(UPNP)
            mapping.fail(UPNP, str(error))
        await trio.sleep(UPNP_RETRY_S)


async def _hold_by_upnp(
    gateway: UpnpGateway, mapping: PortMapping, lifetime_s: float, randbytes: Callable[[int], bytes]
) -> None:
    """Map the port and map it again in time, until the gateway refuses; give it back at the end."""
    port = 0
    try:
        while True:
            external, lease_s = await gateway.map_port(
                mapping.local, lease_s=lifetime_s, randbytes=randbytes, port=port
            )
            port = external.port
            if external not in [held.external for held in mapping.addresses if held.protocol == UPNP]:
                mapping.gain(UPNP, external)
            # A gateway without leases may still be switched off and on.
            await trio.sleep(min(lease_s / 2, lifetime_s / 2))
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + RELEASE_S), suppress(UpnpError):
            await gateway.release()


# Looking without mapping


async def probe_port_mapping(
    network: Network, host: str, gateway: Gateway | None, *, upnp: bool = True
) -> list[ProbeAnswer]:
    """Return which protocols the gateway speaks, mapping nothing; takes up to `PROBE_S` seconds.

    Args:
        network: where `host` is.
        host: the local address.
        gateway: whom to ask; None leaves PCP and NAT-PMP out.
        upnp: whether to look for UPnP, too.
    """
    answers: list[ProbeAnswer] = []
    async with trio.open_nursery() as nursery:
        if gateway is not None:
            nursery.start_soon(run_contained, "a gateway", _probe_gateway, network, host, gateway, answers)
        if upnp and ":" not in host:
            nursery.start_soon(run_contained, "UPnP", _probe_upnp, host, answers)
    return sorted(answers, key=lambda answer: answer.protocol)


async def _probe_gateway(network: Network, host: str, gateway: Gateway, answers: list[ProbeAnswer]) -> None:
    try:
        sock = await network.open_udp(host)
    except OSError:
        return
    probe = GatewayProbe(local=sock.local_address, server=TransportAddress(gateway.host, PORT_MAPPING_SERVER_PORT))
    driver = MachineDriver(
        probe,
        {sock.local_address: sock},
        receive=lambda now, _local, remote, data: probe.handle_datagram(now, remote, data),
        unreachable=lambda now, _remote: probe.handle_unreachable(now),
        settle=lambda: probe.finished,
    )
    try:
        driver.mutate(probe.start)
        await driver.run()
    finally:
        sock.close()
    answers.extend(probe.answers.values())


async def _probe_upnp(host: str, answers: list[ProbeAnswer]) -> None:
    answer = ProbeAnswer(UPNP, available=False, detail="no gateway answers")
    started_at = trio.current_time()
    with trio.move_on_after(PROBE_S):
        try:
            gateway = await find_upnp_gateway(host)
            external = await gateway.external_host()
        except UpnpError as error:
            answer = ProbeAnswer(UPNP, available=False, detail=str(error))
        else:
            rtt_s = trio.current_time() - started_at
            answer = ProbeAnswer(UPNP, True, "available", external, rtt_s if math.isfinite(rtt_s) else None)
    answers.append(answer)
