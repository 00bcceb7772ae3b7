"""TURN servers, and the alternates they name with 300 (Try Alternate): which to follow, and which never.

A server decides here where we send next, so its alternate is not trusted: never into this machine, never to its
neighbours on the link, never to what is not the address of one host, and never in circles.

Source: RFC 8489 section 10, RFC 8656 section 21.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final

import trio

from iceagent.core import turn
from iceagent.core.address import IPAddress, TransportAddress, inner_addresses
from iceagent.core.ice.model.candidates import is_usable
from iceagent.net.host_names import check_host

logger = logging.getLogger("iceagent.turn")

DEFAULT_PORT: Final = 3478  # RFC 8656 section 21
DEFAULT_TLS_PORT: Final = 5349
ASKED_S: Final = 300.0  # RFC 8489 section 10: whom we have asked within five minutes is not asked again on a 300
MAX_ASKED: Final = 256  # ours: servers remembered


@dataclass(frozen=True, slots=True)
class TurnServerAddress:
    """A TURN server and the way to speak to it.

    Attributes:
        host: a name or IP literal.
        port: 1 to 65535.
        transport: `udp`, `tcp`, `tls` or `dtls`.
        tls_name: the name its certificate must carry, if not `host`.
    """

    host: str
    port: int = DEFAULT_PORT
    transport: str = "udp"
    tls_name: str | None = None

    @property
    def url(self) -> str:
        """The server as a URL, for people."""
        secure = self.transport in ("tls", "dtls")
        host = f"[{self.host}]" if ":" in self.host else self.host
        below = "udp" if self.transport in ("udp", "dtls") else "tcp"
        return f"{'turns' if secure else 'turn'}:{host}:{self.port}?transport={below}"


class Redirections:
    """Whom one client has asked, and when; so that servers cannot send it in circles."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, str, int], float] = {}

    def note_asked(self, server: TurnServerAddress, place: TransportAddress | None) -> None:
        """Take note that a server is being asked, at an address or through a proxy."""
        key = _key(server.transport, place or TransportAddress(server.host, server.port))
        self._asked.pop(key, None)
        while len(self._asked) >= MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        self._asked[key] = trio.current_time()

    def forget(self, server: TurnServerAddress, place: TransportAddress | None) -> None:
        """Take note that a server has given what was asked for: when that is lost, it is to be asked again."""
        self._asked.pop(_key(server.transport, place or TransportAddress(server.host, server.port)), None)

    def target(
        self,
        server: TurnServerAddress,
        ended: turn.Ended,
        place: TransportAddress | None,
        own_hosts: Callable[[], Collection[str]] = tuple,
    ) -> TurnServerAddress | None:
        """Return the server to ask in another's place, or None if its redirection is not followed.

        Args:
            server: who has answered with 300.
            ended: its answer.
            place: the address that has answered; None behind a proxy.
            own_hosts: returns the addresses of this machine.
        """
        reason = self._why_not(server, ended, place, own_hosts)
        if reason:
            logger.info("%s names another server, which is not asked: %s", server.url, reason)
            return None
        assert ended.alternate is not None
        name = ended.alternate_domain or server.tls_name or server.host
        return replace(server, host=ended.alternate.host, port=ended.alternate.port, tls_name=name)

    def _why_not(
        self,
        server: TurnServerAddress,
        ended: turn.Ended,
        place: TransportAddress | None,
        own_hosts: Callable[[], Collection[str]],
    ) -> str:
        alternate = ended.alternate
        if alternate is None or alternate.port == 0:
            return "it names none"
        if place is not None and alternate.family != place.family:
            return "it is of another IP version (RFC 8489 section 10)"
        if is_never_a_server(alternate.ip, own_hosts(), is_near=place is not None and place.ip.is_link_local):
            return "its address is in this machine, on its own cable, or not that of one host"
        if self._asked.get(_key(server.transport, alternate), -ASKED_S) > trio.current_time() - ASKED_S:
            return f"it has been asked within {ASKED_S:g} s"
        try:
            check_host(ended.alternate_domain or "named")
        except ValueError as error:
            return f"the name of its certificate is none: {error}"
        return ""


def is_never_a_server(ip: IPAddress, own_hosts: Collection[str] = (), *, is_near: bool = False) -> bool:
    """Return whether an address that a relay or another server named must not be used.

    Such lead into this machine, to its neighbours on the link (where clouds have the service that gives away keys), or
    to what is no address of one host. An IPv6 address that stands for such an IPv4 one (6to4, NAT64 ...) does as much.

    Args:
        ip: the address.
        own_hosts: the addresses of this machine.
        is_near: who named it is link-local itself, so that its neighbours are ours.
    """
    return any(_is_never(face, own_hosts, is_near=is_near) for face in (ip, *inner_addresses(ip)))


def _is_never(ip: IPAddress, own_hosts: Collection[str], *, is_near: bool) -> bool:
    host = str(ip).partition("%")[0]
    if ip.is_loopback or not is_usable(host) or (ip.is_link_local and not is_near):
        return True
    return any(host == own.partition("%")[0] for own in own_hosts)


def _key(transport: str, address: TransportAddress) -> tuple[str, str, int]:
    return (transport, address.host.lower(), address.port)
