"""What a check found, as values."""

from __future__ import annotations

from dataclasses import dataclass, field

from iceagent.core.discovery import FamilyView, NatBehaviour, SideView
from iceagent.net.gateway import Gateway


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """One server that was asked.

    Attributes:
        url: as it was given, such as `stun:stun.example.org:3478`.
        transport: `udp`, `tcp`, `tls` or `dtls`.
        ok: whether it answered as such a server does.
        family: IP version it was asked over; None where its name did not resolve, and for TURN.
        latency_s: round trip; of TURN from the first packet to the allocation; None where nothing was measured.
        detail: what went wrong; empty where nothing did.
        relays: whether it gave a relayed address.
    """

    url: str
    transport: str
    ok: bool
    family: int | None = None
    latency_s: float | None = None
    detail: str = ""
    relays: bool = False


@dataclass(frozen=True, slots=True)
class FamilyReport:
    """One IP version: `host` is the local address it was looked at from, `gateway` its default one."""

    family: int
    host: str
    gateway: Gateway | None = None
    behaviour: NatBehaviour | None = None


@dataclass(frozen=True, slots=True)
class PortMappingReport:
    """One protocol that may open a port: `pcp`, `nat-pmp` or `upnp`."""

    protocol: str
    available: bool
    detail: str
    external_host: str | None = None


@dataclass(frozen=True, slots=True)
class RelayReport:
    """The signaling relay; `latency_s` from the first packet to its welcome."""

    url: str
    ok: bool
    latency_s: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class WebReport:
    """What stands between this machine and the web.

    Attributes:
        intercepted: whether somebody else answered in a server's place: a captive portal, a filter. None: not known.
        detail: what makes us think so.
        proxy: the proxy the environment names, without its password; None without one.
        clock_offset_s: how far this machine's clock is ahead, seconds, to about one; None: not known.
    """

    intercepted: bool | None = None
    detail: str = ""
    proxy: str | None = None
    clock_offset_s: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """All of it."""

    families: tuple[FamilyReport, ...] = ()
    servers: tuple[ServerHealth, ...] = ()
    port_mapping: tuple[PortMappingReport, ...] = ()
    relay: RelayReport | None = None
    web: WebReport = field(default_factory=WebReport)

    @property
    def udp_works(self) -> bool | None:
        """Whether UDP gets out and back; None where there was nobody to ask."""
        asked = [family.behaviour for family in self.families if family.behaviour and family.behaviour.servers]
        return any(behaviour.udp_works for behaviour in asked) if asked else None

    @property
    def maps_ports(self) -> bool:
        """Whether the gateway opens a port when asked."""
        return any(one.available for one in self.port_mapping)

    def side_view(self) -> SideView:
        """Return what a prediction needs to know of this side."""
        views: dict[int, FamilyView] = {}
        for one in self.families:
            found = one.behaviour
            if found is not None and found.udp_works:
                hosts = tuple(dict.fromkeys(address.host for address in found.mapped))
                maps = one.family == 4 and self.maps_ports
                views[one.family] = FamilyView(found.mapping, found.filtering, hosts, maps, found.hairpin)
        relays = {"udp" if one.transport == "dtls" else one.transport for one in self.servers if one.relays}
        return SideView(views, frozenset(relays))
