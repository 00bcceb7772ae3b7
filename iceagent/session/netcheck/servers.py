"""The servers to be asked: their addresses, the results of STUN servers, and whether TURN servers really relay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import trio

from iceagent.agent import IceServer
from iceagent.agent.gather.relayed_addresses import why_useless
from iceagent.core.address import TransportAddress
from iceagent.core.discovery import ServerReport
from iceagent.core.turn import EndReason, TurnError
from iceagent.errors import LocalError
from iceagent.net import Network
from iceagent.net.tasks import contained
from iceagent.net.turn.allocation import open_turn_socket
from iceagent.net.turn.connect import TurnConnectOptions, TurnServerAddress
from iceagent.session.netcheck.report import ServerHealth
from iceagent.session.netcheck.web import connect

RESOLVE_S: Final = 5.0
CONNECT_S: Final = 6.0
MAX_PLACES: Final = 3  # ours: addresses of one server and family that are asked; discovery asks eight in all


@dataclass(frozen=True, slots=True)
class Place:
    """One address at which STUN over UDP may be asked. `failure` says why there is none."""

    url: str
    family: int | None
    address: TransportAddress | None = None
    failure: str = ""


async def find_places(network: Network, servers: Iterable[IceServer], families: Sequence[int] = (4, 6)) -> list[Place]:
    """Return where each server answers STUN over UDP, once per family; names are looked up side by side.

    A TURN server over UDP is a STUN server, too.
    """
    asked = [one for one in servers if one.scheme == "stun" or (one.is_turn and "udp" in one.transports())]
    found: dict[int, list[Place]] = {}

    async def find(at: int, server: IceServer) -> None:
        found[at] = await _find(network, server, families)

    async with trio.open_nursery() as nursery:
        for at, server in enumerate(asked):
            nursery.start_soon(find, at, server)
    return [place for at in sorted(found) for place in found[at]]


async def _find(network: Network, server: IceServer, families: Sequence[int]) -> list[Place]:
    host, port = server.endpoint()
    failure = f"name lookup: no answer within {RESOLVE_S:g} s"
    with trio.move_on_after(RESOLVE_S):
        try:
            addresses = await network.resolve(host, port)
        except OSError as error:
            failure = f"name lookup: {error.strerror or error}"
        else:
            usable = [one for one in addresses if one.family in families]
            allowed = [one for one in usable if server.may_ask(one, _own_hosts(network))]
            if allowed:
                # Beyond the first, which may be dead; those of other families and servers are asked beside them.
                by_family = {family: [one for one in allowed if one.family == family] for family in (4, 6)}
                return [Place(server.url, family, one) for family in (4, 6) for one in by_family[family][:MAX_PLACES]]
            failure = "its name has no address that could be used"
            if usable:
                failure = "a relay has named it, and it is in this machine, on its cable, or no host: not asked"
    return [Place(server.url, None, failure=failure)]


def health_of_stun(places: Iterable[Place], reports: Iterable[ServerReport]) -> list[ServerHealth]:
    """Return the health of the STUN servers, from what discovery heard of them."""
    by_address = {report.server: report for report in reports}
    found: dict[tuple[str, int | None], ServerHealth] = {}
    for place in places:
        if place.url.lower().startswith("stun:"):
            health = _health(place, by_address.get(place.address) if place.address else None)
            key = (place.url, place.family)
            if key not in found or (health.ok and not found[key].ok):
                found[key] = health  # one of its addresses that answers is enough
    return list(found.values())


def _health(place: Place, report: ServerReport | None) -> ServerHealth:
    if place.address is None:
        return ServerHealth(place.url, "udp", ok=False, family=place.family, detail=place.failure)
    if report is None:
        detail = f"not asked: this machine has no IPv{place.family} address that could reach it"
        return ServerHealth(place.url, "udp", ok=False, family=place.family, detail=detail)
    return ServerHealth(place.url, "udp", not report.failure, place.family, report.rtt_s, report.failure)


async def check_others(network: Network, servers: Iterable[IceServer]) -> list[ServerHealth]:
    """Return the health of TURN servers, by each of their transports, and of STUN servers over TLS."""
    tried = [(one, transport) for one in servers if one.is_turn for transport in one.transports()]
    tried += [(one, "tls") for one in servers if one.scheme == "stuns"]
    found: dict[int, ServerHealth] = {}

    async def check(at: int, server: IceServer, transport: str) -> None:
        silent = ServerHealth(server.url, transport, ok=False, detail=f"no answer within {CONNECT_S:g} s")
        unforeseen: list[Exception] = []
        with trio.move_on_after(CONNECT_S), contained(f"{server.shown} over {transport}", unforeseen.append):
            found[at] = await (_allocate if server.is_turn else _shake_hands)(network, server, silent)
        found.setdefault(at, replace(silent, detail="something nobody has foreseen") if unforeseen else silent)

    async with trio.open_nursery() as nursery:
        for at, (server, transport) in enumerate(tried):
            nursery.start_soon(check, at, server, transport)
    return [found[at] for at in sorted(found)]


async def _allocate(network: Network, server: IceServer, silent: ServerHealth) -> ServerHealth:
    """Have the server relay, for a moment: whoever only answers may still refuse."""
    host, port = server.endpoint()
    started_at = trio.current_time()
    try:
        own = _own_hosts(network)
        options = TurnConnectOptions(permits=lambda one: server.may_ask(one, own), own_hosts=lambda: own)
        target = TurnServerAddress(host, port, silent.transport)
        async with open_turn_socket(network, target, login=server.login(), options=options) as allocation:
            latency_s = trio.current_time() - started_at
            useless = [why_useless(one, allocation.place, ()) for one in allocation.relayed_addresses]
        if all(useless):
            return replace(silent, latency_s=latency_s, detail=useless[0])
        return replace(silent, ok=True, relays=True, latency_s=latency_s, detail="")
    except TurnError as error:
        latency_s = trio.current_time() - started_at
        if error.reason is EndReason.CREDENTIALS_NEEDED:
            return replace(silent, ok=True, latency_s=latency_s, detail="answers, and asks for credentials")
        return replace(silent, detail=str(error))
    except (OSError, LocalError) as error:
        return replace(silent, detail=getattr(error, "strerror", None) or str(error))


async def _shake_hands(network: Network, server: IceServer, silent: ServerHealth) -> ServerHealth:
    host, port = server.endpoint()
    started_at = trio.current_time()
    try:
        stream = await connect(network, await network.resolve(host, port), tls_name=host)
    except OSError as error:
        return replace(silent, detail=error.strerror or str(error))
    latency_s = trio.current_time() - started_at
    await trio.aclose_forcefully(stream)
    return replace(silent, ok=True, latency_s=latency_s, detail="")


def _own_hosts(network: Network) -> set[str]:
    try:
        return {entry.host for entry in network.interfaces()}
    except OSError:
        return set()
