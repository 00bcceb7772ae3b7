"""STUN and TURN servers as they are configured, or named by a relay. What cannot work is refused at once."""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from iceagent.agent import late
from iceagent.core.address import IPAddress, TransportAddress
from iceagent.core.checked import check_fields
from iceagent.errors import LocalError
from iceagent.net.api import Network
from iceagent.net.host_names import check_host
from iceagent.net.turn.redirect import is_never_a_server

if TYPE_CHECKING:
    from iceagent.core.turn import TurnCredentials
    from iceagent.net.turn.allocation import TurnLogin

logger = logging.getLogger("iceagent.agent")

DEFAULT_STUN_PORT: Final = 3478  # RFC 8489 section 18.6
DEFAULT_TLS_PORT: Final = 5349  # RFC 8656 section 21
MAX_SERVERS: Final = 16  # ours: each costs one transaction per local address
MAX_URL: Final = 512  # ours: characters; a name has 253 at most
_MAX_SHOWN: Final = 80

_TURN_SCHEMES: Final = ("turn", "turns")
_TRANSPORTS: Final = {"": ("udp", "tcp"), "udp": ("udp",), "tcp": ("tcp",)}
_TRANSPORTS_TLS: Final = {"": ("tls",), "tcp": ("tls",), "udp": ("dtls",)}
_KNOWN_SCHEMES: Final = ("stun", "stuns", "turn", "turns")
_URL: Final = re.compile(  # RFC 7064 section 3.1, RFC 7065 section 3.1
    r"(?P<scheme>[A-Za-z]+):(?:\[(?P<literal>[^\]]*)\]|(?P<name>[^\[\]:?/#]*))(?::(?P<port>[^?/#]*))?"
    r"(?:\?(?P<query>[^#/]*))?\Z"
)


@dataclass(frozen=True, slots=True)
class IceServer:
    """A server that helps gathering: `IceServer("stun:stun.example.org:3478")`, or a relay.

    A relay is `IceServer("turn:turn.example.org", username=…, credential=…)`.

    Attributes:
        url: `stun:HOST[:PORT]` (RFC 7064), `turn:HOST[:PORT][?transport=udp|tcp]` or `turns:…` (RFC 7065); an IPv6
            literal needs brackets. The port is 3478 unless given, 5349 for `turns`. Without `transport`, `turn` is UDP,
            and TCP where UDP does not get through; `turns` is TLS, and DTLS with `transport=udp`.
        username: of TURN servers.
        credential: its password; kept out of `repr` and logs.
        credentials: instead of both, a function, plain or async, that returns `TurnCredentials`; it is called again
            before they expire.
        may_be_here: whether it may be in this machine itself. What somebody else names, as a relay does, may not: it
            would have us knock at doors that are closed to him.
        may_be_near: whether it may be link-local, if it may not be here: where whoever names it is.
    """

    url: str
    username: str | None = None
    credential: str | None = field(default=None, repr=False)
    credentials: Callable[[], TurnCredentials | Awaitable[TurnCredentials]] | None = field(default=None, repr=False)
    may_be_here: bool = field(default=True, repr=False)
    may_be_near: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            LocalError: the URL is malformed, there is a user name without a password, or either holds what TURN
                cannot carry.
        """
        check_fields(self)
        self.endpoint()
        self.transports()
        if not self.is_turn or self.credentials is not None:
            return
        if (not self.username) != (not self.credential):
            raise LocalError(f"{self.shown!r} needs both username= and credential=, or neither")
        if self.username and self.credential:
            try:
                late.TurnCredentials(self.username, self.credential).check()
            except ValueError as error:
                raise LocalError(f"{self.shown!r}: {error}") from None

    @property
    def shown(self) -> str:
        """The URL for messages: cut, and without what looks like a secret in it."""
        return _shown(self.url)

    @property
    def is_turn(self) -> bool:
        """Whether it relays."""
        return self.scheme in _TURN_SCHEMES

    @property
    def answers_tcp(self) -> bool:
        """Whether it is to be asked over TCP how it sees us: a relay over TCP, or `stun:…?transport=tcp`."""
        return "tcp" in self.transports() and (self.is_turn or "transport=" in self.url.lower())

    def may_ask(self, address: TransportAddress, own_hosts: Collection[str]) -> bool:
        """Return whether an address of this server may be sent to; only servers named by a relay are checked.

        Args:
            address: what its name resolves to, or it names in its place.
            own_hosts: the addresses of this machine, as they are now.
        """
        return self.may_be_at(address.ip, own_hosts)

    def may_be_at(self, ip: IPAddress, own_hosts: Collection[str]) -> bool:
        """Return whether it may have an address, or one that this stands for; `own_hosts` as for `may_ask`."""
        return self.may_be_here or not is_never_a_server(ip, own_hosts, is_near=self.may_be_near)

    def transports(self) -> tuple[str, ...]:
        """Return the transports to try, best first, of `udp`, `tcp`, `tls` and `dtls`.

        Raises:
            LocalError: the URL names another one.
        """
        query = (_parse(self.url)["query"] or "").lower()
        name, _, wanted = query.partition("=")
        known = _TRANSPORTS_TLS if self.scheme == "turns" else _TRANSPORTS
        if (query and name != "transport") or wanted not in known:
            raise LocalError(f"{self.shown!r} must end in ?transport=udp, ?transport=tcp or neither")
        return known[wanted]

    def login(self) -> TurnLogin:
        """Return where the credentials come from."""
        if self.credentials is not None:
            return late.TurnLogin(self.credentials)
        if not self.username or not self.credential:
            return late.TurnLogin(None)
        return late.TurnLogin(late.TurnCredentials(self.username, self.credential))

    @property
    def scheme(self) -> str:
        """`stun`, `stuns`, `turn` or `turns`."""
        return self.url.partition(":")[0].lower()

    def endpoint(self) -> tuple[str, int]:
        """Return host and port.

        Raises:
            LocalError: the URL is malformed.
        """
        parts = _parse(self.url)
        host, port_text = parts["literal"] or parts["name"], parts["port"]
        if not host or ":" in (port_text or ""):
            raise LocalError(f"{self.shown!r} has no host (an IPv6 address needs brackets: stun:[2001:db8::1]:3478)")
        try:
            host = check_host(host, bracketed=parts["literal"] is not None)
        except ValueError as error:
            raise LocalError(f"{self.shown!r}: {error}") from None
        if not port_text:
            return host, DEFAULT_TLS_PORT if self.scheme in ("turns", "stuns") else DEFAULT_STUN_PORT
        if not (re.fullmatch("[0-9]{1,5}", port_text) and 0 < int(port_text) < 65536):
            raise LocalError(f"the port of {self.shown!r} is not within 1 to 65535")
        return host, int(port_text)


def _parse(url: str) -> dict[str, str | None]:
    found = None if len(url) > MAX_URL else _URL.match(url)
    if found is not None and "@" not in url and found["scheme"].lower() in _KNOWN_SCHEMES:
        return found.groupdict()
    if "@" in url:
        raise LocalError(
            f"{_shown(url)!r} carries a user name or password; give them as username= and credential= instead"
        )
    raise LocalError(
        f"{_shown(url)!r} is not an ICE server; write it as stun:stun.example.org:3478, with nothing after the port "
        "but ?transport=udp or ?transport=tcp"
    )


def _shown(url: str) -> str:
    if "@" in url:
        url = f"{url.partition(':')[0][:8]}:…@{url.rpartition('@')[2]}"
    bare, mark, query = url.partition("?")
    if mark:
        name, _, value = query.partition("=")
        bare += f"?{name}=…" if name.lower() != "transport" or len(value) > 8 else f"?{query}"
    return bare if len(bare) <= _MAX_SHOWN else f"{bare[:_MAX_SHOWN]}…"


def first_servers(servers: Sequence[IceServer | str]) -> tuple[IceServer, ...]:
    """Return as many servers as are asked, URLs among them as servers; what is beyond them is logged.

    Raises:
        LocalError: a URL is malformed.
    """
    found = tuple(IceServer(server) if isinstance(server, str) else server for server in servers)
    for server in found[MAX_SERVERS:]:
        logger.warning("%s is left out: only the first %d servers are asked", server.shown, MAX_SERVERS)
    return found[:MAX_SERVERS]


def offered_servers(entries: Iterable[Mapping[str, Any]], relay_host: str, network: Network) -> tuple[IceServer, ...]:
    """Return the servers a signaling relay names; what cannot be used is left out and logged.

    They may be in this machine only where the relay is, too: at loopback, or at an address of ours. A name counts as
    here if it is `localhost`; what other names resolve to is up to whoever owns them. They may be link-local only where
    the relay's own address is.

    Args:
        entries: maps with `urls`, and for TURN servers `username` and `credential`.
        relay_host: the relay's, as its URL names it.
        network: whose addresses are ours.
    """
    may_be_here = _is_here(relay_host, network)
    may_be_near = _is_near(relay_host)
    found: dict[IceServer, None] = {}
    for entry in entries:
        for server in _offered(entry):
            found[replace(server, may_be_here=may_be_here, may_be_near=may_be_near)] = None
    return tuple(found)


def _offered(entry: Mapping[str, Any]) -> Iterable[IceServer]:
    urls = entry.get("urls", ())
    username, credential = entry.get("username"), entry.get("credential")
    for url in (urls,) if isinstance(urls, str) else urls:
        try:
            server = IceServer(url)
            if server.is_turn:
                server = IceServer(url, username or "", credential or "")
        except (LocalError, TypeError) as error:
            logger.warning("the relay names a server that cannot be used: %s", error)
            continue
        if server.scheme == "stuns":
            logger.info("the relay names %s; STUN over TLS is left out", server.shown)
        else:
            yield server


def _is_here(host: str, network: Network) -> bool:
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost") or name == socket.gethostname().lower():
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    if ip.is_loopback or ip.is_unspecified:
        return True
    try:
        return str(ip) in {entry.host for entry in network.interfaces()}
    except OSError:
        return False


def _is_near(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_link_local
    except ValueError:
        return False
