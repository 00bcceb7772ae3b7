"""The configuration of a TURN server, checked before anything is bound."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from iceagent.core.address import TransportAddress
from iceagent.core.turn.server import (
    AnyUsers,
    SharedSecretUsers,
    StaticUsers,
    TurnLimits,
    UserStore,
)
from iceagent.core.turn.server.limits import FIRST_PORT, LAST_PORT
from iceagent.errors import LocalError

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
        unix_time: seconds since 1970, by which short-lived credentials end.
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
    unix_time: Callable[[], float] = field(default=time.time, repr=False)

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
        secrets = SharedSecretUsers(options.secrets, options.unix_time) if options.secrets else None
        static = StaticUsers(options.users, options.realm) if options.users else None
    except ValueError as error:
        raise TurnOptionsError(f"users of the TURN server: {error}") from None
    stores: list[UserStore] = [store for store in (static, secrets) if store is not None]
    return (stores[0] if len(stores) == 1 else AnyUsers(stores)), secrets
