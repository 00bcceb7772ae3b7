"""What an operator says about a TURN server, checked before anything is bound."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from iceagent.core.address import TransportAddress
from iceagent.core.turn.server import (
    AnyUsers,
    PeerPolicy,
    SharedSecretUsers,
    StaticUsers,
    TurnLimits,
    TurnServerConfig,
    UserStore,
)
from iceagent.core.turn.server.limits import FIRST_PORT, LAST_PORT
from iceagent.errors import LocalError
from iceagent.net.api import Network

DEFAULT_REALM = "iceagent"
MIN_SECRET_CHARACTERS = 16


class TurnOptionsError(LocalError):
    """The options of a TURN server contradict each other or cannot work; it does not start."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A certificate chain and its key, as PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """A TURN server's configuration.

    Attributes:
        listen: where clients come over UDP. IP literals; port 0 for a free one.
        realm: of the users.
        users: passwords by name.
        secrets: for short-lived credentials (`expiry:id`); the first is the one new ones are made with.
        tcp_listen: where clients come over TCP; None for the addresses of `listen`, empty for nowhere.
        tls: certificate and key; None for neither TLS nor DTLS.
        tls_listen: where clients come over TLS and DTLS; empty for `listen` with port 5349 (or 0 where that is 0).
        dtls: whether to serve DTLS where TLS is served and pyOpenSSL is installed.
        external: addresses that others see this machine under, one of each family at most.
        relay_hosts: IP literals to bind relays to; empty for those of `listen`.
        ports: first and last port of relays.
        allow_peers: networks that peers may live in although they are private or reserved.
        deny_peers: networks that peers may never live in.
        nat64: prefixes that the network translates to IPv4.
        relay_only: whether peers are only relayed addresses of this server.
        loopback: whether peers may live at loopback; forces `listen` to be at loopback.
        limits: what user, source and server may have.
        alternate: a second address for NAT behaviour discovery (RFC 5780); its IP and port must both differ.
        software: for SOFTWARE; empty for none.
        max_connections: TCP and TLS connections of all clients.
        max_connections_per_source: of one IPv4 address or one IPv6 /64.
    """

    listen: Sequence[TransportAddress]
    realm: str = DEFAULT_REALM
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: Sequence[str] = field(default=(), repr=False)
    tcp_listen: Sequence[TransportAddress] | None = None
    tls: TlsFiles | None = None
    tls_listen: Sequence[TransportAddress] = ()
    dtls: bool = True
    external: Sequence[str] = ()
    relay_hosts: Sequence[str] = ()
    ports: tuple[int, int] = (FIRST_PORT, LAST_PORT)
    allow_peers: Sequence[str] = ()
    deny_peers: Sequence[str] = ()
    nat64: Sequence[str] = ()
    relay_only: bool = False
    loopback: bool = False
    limits: TurnLimits = field(default_factory=TurnLimits)
    alternate: TransportAddress | None = None
    software: str = ""
    max_connections: int = 4096
    max_connections_per_source: int = 256

    def __post_init__(self) -> None:
        """Check.

        Raises:
            TurnOptionsError: something cannot work.
        """
        if not self.listen:
            raise TurnOptionsError("a TURN server needs an address to listen at")
        if not self.users and not self.secrets:
            raise TurnOptionsError("a TURN server needs users or a secret; an open relay is everybody's")
        if any(len(secret) < MIN_SECRET_CHARACTERS for secret in self.secrets):
            raise TurnOptionsError(f"a secret has at least {MIN_SECRET_CHARACTERS} characters")
        everywhere = (*self.listen, *(self.tcp_listen or ()), *self.tls_listen)
        if self.loopback and not all(address.ip.is_loopback for address in everywhere):
            raise TurnOptionsError(
                "peers at loopback are for development: the server must listen at 127.0.0.1 or ::1 then"
            )
        if not 1 <= self.ports[0] <= self.ports[1] <= 65535:
            raise TurnOptionsError(f"{self.ports[0]}-{self.ports[1]} is no range of ports")
        if self.alternate is not None:
            self._check_alternate(self.alternate)

    def _check_alternate(self, alternate: TransportAddress) -> None:
        first = self.listen[0]
        if alternate.family != first.family or alternate.host == first.host or not alternate.port or not first.port:
            raise TurnOptionsError("NAT behaviour discovery needs a second address of the same family and fixed ports")
        if alternate.port == first.port or alternate.ip.is_unspecified or first.ip.is_unspecified:
            raise TurnOptionsError("NAT behaviour discovery needs two IP addresses, named, and two ports")


def make_users(options: TurnOptions) -> tuple[UserStore, SharedSecretUsers | None]:
    """Return the users, and the store that makes short-lived credentials if there is a secret.

    Raises:
        TurnOptionsError: a name or a password cannot be used.
    """
    try:
        secrets = SharedSecretUsers(options.secrets, time.time) if options.secrets else None
        static = StaticUsers(options.users, options.realm) if options.users else None
    except ValueError as error:
        raise TurnOptionsError(f"users of the TURN server: {error}") from None
    stores: list[UserStore] = [store for store in (static, secrets) if store is not None]
    return (stores[0] if len(stores) == 1 else AnyUsers(stores)), secrets


def make_config(options: TurnOptions, network: Network, users: UserStore) -> TurnServerConfig:
    """Return the core's configuration.

    Raises:
        TurnOptionsError: addresses or rules do not fit.
        PolicyError: a peer rule is malformed.
    """
    hosts = _relay_hosts(options, network)
    own = {interface.host.partition("%")[0] for interface in network.interfaces()}
    own |= {*hosts, *hosts.values(), *(address.host for address in options.listen)}
    policy = PeerPolicy(
        allow=options.allow_peers,
        deny=options.deny_peers,
        own=own,
        loopback=options.loopback,
        relay_only=options.relay_only,
        nat64=options.nat64,
    )
    try:
        return TurnServerConfig(
            options.realm, users, hosts, policy, options.limits, options.ports, software=options.software
        )
    except ValueError as error:
        raise TurnOptionsError(f"TURN server: {error}") from None


def _relay_hosts(options: TurnOptions, network: Network) -> dict[str, str]:
    """Return where relays are bound and what they are called, one of each family at most."""
    external = {":" in host: _literal(host) for host in options.external}
    if len(external) != len(options.external):
        raise TurnOptionsError("at most one external address of each family")
    hosts: dict[str, str] = {}
    for host in options.relay_hosts or [address.host for address in options.listen]:
        literal = _literal(host)
        is_ipv6 = ":" in literal
        if any((":" in one) == is_ipv6 for one in hosts):
            continue
        if ipaddress.ip_address(literal).is_unspecified and is_ipv6 not in external:
            literal = _usable_host(network, is_ipv6=is_ipv6)
        hosts[literal] = external.get(is_ipv6, literal)
    if not external.keys() <= {":" in host for host in hosts}:
        raise TurnOptionsError("an external address is of a family that the server does not listen with")
    return hosts


def _literal(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise TurnOptionsError(f"{host!r} is no IP address") from None


def _usable_host(network: Network, *, is_ipv6: bool) -> str:
    """Return the address that relays are told of when the server listens at all of them: a global one if possible."""
    candidates = [
        ipaddress.ip_address(one.host)
        for one in network.interfaces()
        if (":" in one.host) == is_ipv6 and not one.is_loopback and not one.is_link_local and not one.is_temporary
    ]
    if not candidates:
        family = "IPv6" if is_ipv6 else "IPv4"
        raise TurnOptionsError(f"no {family} address to relay from; listen at an address of this machine")
    return str(min(candidates, key=lambda ip: not ip.is_global))
