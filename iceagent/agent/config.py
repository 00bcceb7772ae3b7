"""What a user may ask of an agent. What is impossible is refused with an error that says why, never ignored."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

from iceagent.agent import late
from iceagent.agent.gather.servers import IceServer, first_servers
from iceagent.core import ice
from iceagent.core.address import TransportAddress
from iceagent.core.checked import check_fields
from iceagent.core.constants import TA_MIN_S
from iceagent.errors import LocalError
from iceagent.net.api import Network
from iceagent.net.proxy import parse_proxy

if TYPE_CHECKING:
    from iceagent.core.hard_nat import HardNat
    from iceagent.net.shared_port import SharedPort

GATHER_BUDGET_S: Final = 5.0  # ours: per server and family, name lookup included
RECEIVE_QUEUE: Final = 4 * 1024 * 1024  # ours: bytes, some 30 ms at 1 Gbit/s

TransportPolicy: TypeAlias = Literal["all", "relay"]
CandidateTypeName: TypeAlias = Literal["host", "srflx", "prflx", "relay"]
Family: TypeAlias = Literal[4, 6]
MdnsMode: TypeAlias = Literal["off", "resolve", "publish"]

CANDIDATE_TYPES: Final[tuple[CandidateTypeName, ...]] = ("host", "srflx", "prflx", "relay")  # RFC 8839 section 5.1


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """How an agent gathers and behaves; the defaults suit a peer-to-peer tool. Units are in the names.

    Attributes:
        servers: STUN and TURN servers, each an `IceServer` or a URL, all asked in parallel; of one relay's transports
            the best that works is used. Of more than `MAX_SERVERS` (16) the first are asked, and the others are logged.
        proxy: `http://[USER:PASSWORD@]HOST:PORT` or `socks5://…`, through which TURN over TCP and TLS is tried when
            nothing else works, and a session reaches its relay; "" for none; None for what the environment says
            (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).
        tls_ca_file: certificates to trust for `turns:` instead of the system's, PEM.
        gather_budget_s: seconds granted to each server and family, name lookup included, before its silence counts as
            failure. An answer that comes later is a candidate all the same.
        transport_policy: "all", or "relay": nothing is sent but to the TURN servers, and the peer learns no address of
            ours but theirs. It needs a TURN server, given here or by the relay of a session.
        candidate_types: of `host`, `srflx`, `prflx` and `relay`, those to use. Candidates of other types are neither
            gathered nor signalled, nor taken from the peer: without `relay` no path is relayed, by either side; without
            `host` the peer learns no local address. Without `prflx` nothing is sent to, nor taken from, an address that
            the peer has not signalled, whatever checks come from there.
        families: IP versions to use, of 4 and 6.
        interfaces: names of the interfaces to use (`eth0`, or a pattern such as `wl*`); None for all.
        deny_interfaces: names or patterns of those not to use, such as `docker*`, even where `interfaces` has them.
        prefixes: our addresses to use, as `192.168.0.0/16` or `2001:db8::/32`; None for all.
        deny_prefixes: our addresses not to use.
        include_loopback: whether loopback addresses are candidates; None: only if there is no other address.
        remote_prefixes: the peer's addresses to use; None for all. Servers that are configured are not concerned.
        deny_remote_prefixes: addresses nothing is ever sent to, whether the peer's, a server's or a gateway's. An IPv6
            address that stands for an IPv4 one (NAT64, 6to4, Teredo ...) is denied with it.
        remote_filter: a function that says of an address of the peer whether it may be used.
        port_range: lowest and highest local port, both included; None lets the system choose.
        shared_port: from `open_shared_port`; instead of sockets of its own the agent has its share of those, and its
            candidates are at the port's addresses.
        receive_queue_bytes: what may wait to be received; what comes when it is full is dropped and counted.
        network: where sockets come from; None for this machine, or a `iceagent.vnet.Host`.
        mdns: "resolve" looks the peer's `.local` names up by multicast DNS; "publish" also hides our host addresses
            behind such names, random ones, for which the agent answers; "off" does neither.
        port_mapping: whether the gateway is asked (PCP, NAT-PMP, UPnP) to map our ports, each of which is then one more
            server-reflexive candidate. None: where it can help, that is with servers given and a private address, so
            never for an agent on loopback alone. False: never, where no router is to be touched.
        tcp_candidates: whether the peer is also tried over TCP (RFC 6544), after all ways over UDP: for networks that
            block UDP. Costs two listening sockets for each of up to four addresses. None: only in sessions.
        hard_nat: send many packets to get a direct path where a NAT maps per destination, if the peer does so, too
            (docs/hard-nats.md); True for the usual limits of `HardNat`. IPv4 only.
        streams: how many components each data stream has, RFC 8445's way: (1,) is one stream with one component, what
            `Agent` itself sends and receives over; with (2, 1), `Agent.stream(0)` has two, and there is a `stream(1)`.
            Each component has sockets of its own, and asks the servers for itself. The peer's should be the same;
            components it does not have are closed.
        ice_lite: be a lite agent (RFC 8445 section 2.5): answer the peer's checks and send none. For machines with a
            public address; needs the role CONTROLLED, no servers, and a full agent as peer, informed by `lite=True`.
        full_trickle: each candidate is carried to the peer as it comes, and nobody waits for the last: then
            end-of-candidates waits for whatever may still come, 39.5 s at most. Else it waits for the budgets only.
        auto_restart: restart ICE when the path goes silent or the network changes. It helps only where the events
            `Restarted` are answered by carrying the new credentials and candidates to the peer, as sessions do.
        outage_s: how long an agent whose paths are all lost goes on restarting, seconds since the peer's last answer,
            before it fails; senders wait meanwhile. 0: it fails when consent to its last path ends. Needs
            `auto_restart`, or an application that restarts it. None: 0, and in sessions 10 minutes, with a paired peer
            a day.
        ta_s: pacing of checks, seconds, and of what is proposed to the peer; None: 20 ms with a peer that proposes as
            little (`set_remote_credentials(pacing_s=…)`, as sessions do), 50 ms with others (RFC 8445 section 14.2).
        controller: decides which pairs are checked, nominated and switched to; None for `DefaultController`.
        credentials: our ufrag and password; None makes fresh ones.
        randbytes: the source of all randomness.
    """

    # Servers, and the way to them

    servers: Sequence[IceServer | str] = ()
    proxy: str | None = field(default=None, repr=False)
    tls_ca_file: str | None = None
    gather_budget_s: float = GATHER_BUDGET_S

    # What is used, and what is signalled: what is forbidden here is never sent

    transport_policy: TransportPolicy = "all"
    candidate_types: Sequence[ice.CandidateType | CandidateTypeName] = CANDIDATE_TYPES
    families: Sequence[Family] = (4, 6)
    interfaces: Sequence[str] | None = None
    deny_interfaces: Sequence[str] = ()
    prefixes: Sequence[str] | None = None
    deny_prefixes: Sequence[str] = ()
    include_loopback: bool | None = None
    remote_prefixes: Sequence[str] | None = None
    deny_remote_prefixes: Sequence[str] = ()
    remote_filter: Callable[[TransportAddress], bool] | None = None

    # Sockets

    port_range: tuple[int, int] | None = None
    shared_port: SharedPort | None = None
    receive_queue_bytes: int = RECEIVE_QUEUE
    network: Network | None = None

    # Candidates beyond those of sockets and servers

    mdns: MdnsMode = "resolve"
    port_mapping: bool | None = None
    tcp_candidates: bool | None = None
    hard_nat: bool | HardNat = False

    # ICE

    streams: Sequence[int] = (1,)
    ice_lite: bool = False
    full_trickle: bool = False
    auto_restart: bool = False
    outage_s: float | None = None
    ta_s: float | None = None
    controller: ice.Controller | None = None
    credentials: ice.Credentials | None = field(default=None, repr=False)
    randbytes: Callable[[int], bytes] = field(default=secrets.token_bytes, repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            LocalError: a value is out of range, or asks for something this version does not have.
        """
        check_fields(self)
        object.__setattr__(self, "servers", first_servers(self.servers))
        self._check_policy()
        if not self.families or not set(self.families) <= {4, 6}:
            raise LocalError(f"families {self.families!r} must name IP versions: (4, 6), (4,) or (6,)")
        self._check_filters()
        if self.shared_port is not None:
            self._check_shared_port(self.shared_port)
        if self.port_range is not None:
            low, high = self.port_range
            if not 1 <= low <= high <= 65535:
                raise LocalError(f"port_range {self.port_range!r} must be (lowest, highest) within 1 to 65535")
        if self.ta_s is not None and not TA_MIN_S <= self.ta_s <= 10:
            raise LocalError(f"ta_s {self.ta_s!r} is not within {TA_MIN_S} and 10 seconds (RFC 8445 section 14.2)")
        if self.outage_s is not None and not self.outage_s >= 0:  # so that NaN is none, either
            raise LocalError(f"outage_s {self.outage_s!r} is no number of seconds")
        if not (self.gather_budget_s >= 0 and self.receive_queue_bytes > 0):  # so that NaN is none, either
            raise LocalError("gather_budget_s and receive_queue_bytes must be positive")

    @property
    def ice_servers(self) -> tuple[IceServer, ...]:
        """The `servers`, those too that were given as a URL."""
        return cast("tuple[IceServer, ...]", self.servers)  # __post_init__ has made them so

    def check_relay(self) -> None:
        """Refuse to relay without a relay. Asked when the agent opens, since sessions add their relay's servers first.

        Raises:
            LocalError: `transport_policy` is "relay", and no server is a TURN server.
        """
        if self.transport_policy == "relay" and not any(server.is_turn for server in self.ice_servers):
            raise LocalError("transport_policy='relay' needs a TURN server in servers, such as turn:turn.example.org")

    def _check_shared_port(self, port: SharedPort) -> None:
        if self.network is None:
            object.__setattr__(self, "network", port.network)
        if self.network is not port.network:
            raise LocalError("the agent's network must be the one its shared_port was opened on; leave out network")
        if self.port_range is not None:
            raise LocalError("shared_port has its port already; leave out port_range")
        if tuple(self.streams) != (1,):
            raise LocalError("components of one agent need ports of their own; leave out shared_port or streams")
        if self.transport_policy == "relay":
            raise LocalError("transport_policy='relay' sends from no port of this machine; leave out shared_port")

    def _check_filters(self) -> None:
        for name in ("prefixes", "deny_prefixes", "remote_prefixes", "deny_remote_prefixes"):
            value = getattr(self, name)
            try:
                parse_prefixes(value or ())
            except ValueError as error:
                raise LocalError(f"{name}: {error}") from error
        types = tuple(kind.value if isinstance(kind, ice.CandidateType) else kind for kind in self.candidate_types)
        object.__setattr__(self, "candidate_types", types)
        unknown = [kind for kind in types if kind not in CANDIDATE_TYPES]
        if unknown:
            raise LocalError(
                f"candidate_types {self.candidate_types!r} must be a list of some of {', '.join(CANDIDATE_TYPES)}"
            )
        if not set(self.candidate_types) - {"prflx"}:
            raise LocalError("candidate_types must have host, srflx or relay, for prflx alone is never gathered")
        if self.transport_policy == "relay" and "relay" not in self.candidate_types:
            raise LocalError("transport_policy='relay' needs 'relay' in candidate_types")

    def _check_policy(self) -> None:
        if self.streams != (1,):
            try:
                late.check_layout(self.streams)
            except (TypeError, ValueError) as error:
                raise LocalError(f"streams={self.streams!r}: {error}; write (1,) for one component") from None
        if self.hard_nat and (tuple(self.streams) != (1,) or self.shared_port is not None):
            raise LocalError("hard_nat works with one component and its own sockets; leave out streams and shared_port")
        if self.ice_lite and self.servers:
            raise LocalError("a lite agent has host candidates only; leave out servers or ice_lite")
        if self.transport_policy not in ("all", "relay"):
            raise LocalError(f"transport_policy {self.transport_policy!r} is not known; write 'all' or 'relay'")
        if self.mdns not in ("off", "resolve", "publish"):
            raise LocalError(f"mdns {self.mdns!r} is not known; write 'off', 'resolve' or 'publish'")
        for server in self.ice_servers:
            if server.scheme == "stuns":
                raise LocalError(f"STUN over TLS is not supported by this version; leave out {server.shown!r}")
        if self.proxy:
            parse_proxy(self.proxy)


def parse_prefixes(texts: Sequence[str]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Return the networks that texts such as `10.0.0.0/8`, `fe80::/10` or `192.0.2.1` name.

    Raises:
        ValueError: one of them is no prefix, or bits beyond its length are set.
    """
    return tuple(ipaddress.ip_network(text) for text in texts)
