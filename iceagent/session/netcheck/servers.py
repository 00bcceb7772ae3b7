"""The servers to be asked: URLs to addresses, reports to health, and those that are reached by TCP or TLS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from iceagent.agent import IceServer
from iceagent.core.address import TransportAddress
from iceagent.core.nat import ServerReport
from iceagent.net import Network
from iceagent.session.netcheck.report import ServerHealth, transport_of
from iceagent.session.netcheck.web import connect

TLS_PORT: Final = 5349  # RFC 8489 section 18.6
RESOLVE_S: Final = 5.0
CONNECT_S: Final = 6.0


@dataclass(frozen=True, slots=True)
class Place:
    """One address of a server. `failure` says why there is none."""

    url: str
    family: int | None
    address: TransportAddress | None = None
    failure: str = ""


async def find_places(network: Network, urls: Iterable[str], families: Sequence[int] = (4, 6)) -> list[Place]:
    """Return where each server is, once per family; names are looked up side by side, each within 5 s."""
    found: dict[int, list[Place]] = {}

    async def find(at: int, url: str) -> None:
        found[at] = await _find(network, url, families)

    async with trio.open_nursery() as nursery:
        for at, url in enumerate(dict.fromkeys(urls)):
            nursery.start_soon(find, at, url)
    return [place for at in sorted(found) for place in found[at]]


async def _find(network: Network, url: str, families: Sequence[int]) -> list[Place]:
    host, port = IceServer(url).endpoint()
    if transport_of(url) == "tls" and not _names_port(url):
        port = TLS_PORT
    failure = f"name lookup: no answer within {RESOLVE_S:g} s"
    with trio.move_on_after(RESOLVE_S):
        try:
            addresses = await network.resolve(host, port)
        except OSError as error:
            failure = f"name lookup: {error.strerror or error}"
        else:
            best = {address.family: address for address in reversed(addresses) if address.family in families}
            if best:
                return [Place(url, family, best[family]) for family in sorted(best)]
            failure = "its name has no address that could be used"
    return [Place(url, None, failure=failure)]


def _names_port(url: str) -> bool:
    rest = url.partition(":")[2].partition("?")[0]
    return ":" in rest.rpartition("]")[2]


def health_of_udp(places: Iterable[Place], reports: Iterable[ServerReport]) -> list[ServerHealth]:
    """Return the health of the servers that were asked over UDP."""
    by_address = {report.server: report for report in reports}
    return [_health(place, by_address.get(place.address) if place.address else None) for place in places]


def _health(place: Place, report: ServerReport | None) -> ServerHealth:
    if place.address is None:
        return ServerHealth(place.url, place.family, ok=False, detail=place.failure)
    if report is None:
        detail = f"not asked: this machine has no IPv{place.family} address that could reach it"
        return ServerHealth(place.url, place.family, ok=False, detail=detail)
    return ServerHealth(place.url, place.family, not report.failure, report.rtt_s, report.failure)


async def check_streams(network: Network, places: Sequence[Place]) -> list[ServerHealth]:
    """Return the health of the servers that are reached by TCP or TLS: whether they let us connect, and how soon."""
    found: dict[int, ServerHealth] = {}

    async def check(at: int, place: Place) -> None:
        found[at] = await _check_stream(network, place)

    async with trio.open_nursery() as nursery:
        for at, place in enumerate(places):
            nursery.start_soon(check, at, place)
    return [found[at] for at in sorted(found)]


async def _check_stream(network: Network, place: Place) -> ServerHealth:
    if place.address is None:
        return ServerHealth(place.url, place.family, ok=False, detail=place.failure)
    name = IceServer(place.url).endpoint()[0] if transport_of(place.url) == "tls" else ""
    detail = f"no connection within {CONNECT_S:g} s"
    with trio.move_on_after(CONNECT_S):
        started_at = trio.current_time()
        try:
            stream = await connect(network, [place.address], tls_name=name)
        except OSError as error:
            detail = error.strerror or str(error)
        else:
            latency_s = trio.current_time() - started_at
            await trio.aclose_forcefully(stream)
            return ServerHealth(place.url, place.family, ok=True, latency_s=latency_s)
    return ServerHealth(place.url, place.family, ok=False, detail=detail)
