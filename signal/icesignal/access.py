"""Who may do what at a relay, and what its members are told of ICE servers."""

from __future__ import annotations

import base64
import hmac
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from icesignal import http, wire
from icesignal.http import parse_origins
from icesignal.sources import UNKNOWN_SOURCE, IPNetwork, parse_networks

OWNER = "owner"


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what: which proxies are trusted, which web pages may connect, who may make rooms."""

    proxies: tuple[IPNetwork, ...] = ()
    origins: frozenset[str] = frozenset()
    owner: bytes | None = None

    @classmethod
    def parse(cls, proxies: Sequence[str], origins: Sequence[str], owner_password: str | None) -> Access:
        """Return what is configured.

        Raises:
            ValueError: a network or an origin is malformed.
        """
        owner = None if owner_password is None else b"Basic " + base64.b64encode(f"{OWNER}:{owner_password}".encode())
        return cls(parse_networks(proxies), parse_origins(origins), owner)

    def may_make_rooms(self, request: http.HttpRequest) -> bool:
        """Return whether who sent the request may make rooms: anybody where there is no owner."""
        if self.owner is None:
            return True
        return any(hmac.compare_digest(value, self.owner) for value in request.values(b"authorization"))


class OwnersMeetings:
    """The rendezvous names that a relay's owner has met somebody at: those others may enter, too, and no others.

    Whoever knows such a name has had it from the owner, sealed. The latest are remembered, `MOST` of them.
    """

    MOST: Final = 64

    def __init__(self) -> None:
        self._names: deque[bytes] = deque(maxlen=self.MOST)

    def note(self, name: bytes) -> None:
        """Take note that the owner is there."""
        if name in self._names:
            self._names.remove(name)
        self._names.append(name)

    def __contains__(self, name: bytes) -> bool:
        return name in self._names


IceServers = Sequence[Mapping[str, Any]] | Callable[[str], Sequence[Mapping[str, Any]]]
"""ICE servers for everybody, or what makes them anew for each member that joins, given its source (`source_of`)."""


def servers_for_each(servers: IceServers) -> Callable[[str], list[wire.RTCIceServer]]:
    """Return what gives the entries for a source. They are checked at once, those of a function by a sample."""
    if callable(servers):
        make = servers
        _checked(make(UNKNOWN_SOURCE))
        return lambda source: _checked(make(source))
    fixed = _checked(servers)
    return lambda _: fixed


def _checked(entries: Sequence[Mapping[str, Any]]) -> list[wire.RTCIceServer]:
    if len(entries) > wire.MAX_MAP_KEYS:
        raise ValueError(f"{len(entries)} ICE servers are too many; a frame has place for {wire.MAX_MAP_KEYS}")
    try:
        return msgspec.convert([dict(entry) for entry in entries], list[wire.RTCIceServer])
    except msgspec.ValidationError as error:
        raise ValueError(f'an ICE server looks like {{"urls": ["stun:host:3478"]}}: {error}') from None
