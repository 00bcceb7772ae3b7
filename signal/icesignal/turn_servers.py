"""The TURN servers that members of rooms are told of: near ones first, with short-lived credentials of their own.

The credentials are those of coturn's `use-auth-secret`, which `iceagent turn --secret-file` takes as well.
Source: docs/relay-protocol.md section 9.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from icesignal.sources import UNKNOWN_SOURCE, parse_networks

TTL_S = 12 * 3600  # how long credentials are good for new allocations; clients renew them in time
AGAIN_S = 60.0  # ours: so long a source gets the same credentials again, by whatever connection and however often
MAX_KEPT = 10_000  # ours: credentials of so many sources; who is forgotten gets new ones
MAX_OFFERED = 3  # ours: of all servers; each is asked by every member, and the first that answers would do
_draw = secrets.SystemRandom().random
HOME_PREFIX = 56  # of IPv6: what a home has, who could else be 256 persons


@dataclass(frozen=True, slots=True)
class TurnOffer:
    """One TURN server, or several behind the same secret.

    Attributes:
        urls: `turn:` and `turns:`, as browsers write them.
        secret: shared with the server.
        region: where it is; empty: nowhere in particular.
        weight: how often it comes before others that are as near; positive.
        ttl_s: how long its credentials are good for new allocations.
    """

    urls: tuple[str, ...]
    secret: bytes = field(repr=False)
    region: str = ""
    weight: float = 1.0
    ttl_s: int = TTL_S


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and its password; `ttl_s` from when they were made, Trio's time."""

    username: str
    password: str = field(repr=False)
    made_at: float
    ttl_s: int


class Minted:
    """Credentials that were made of late, by whom they are for: asking again makes no others for `AGAIN_S`.

    Args:
        clock: returns seconds, as Trio's does.
    """

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self._clock = clock
        self._kept: OrderedDict[object, Credentials] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, person: object, make: Callable[[], tuple[str, str]], ttl_s: int) -> tuple[str, str, int]:
        """Return user name, password, and for how many seconds they are good from now on."""
        now = self._clock()
        kept = self._kept.get(person)
        if kept is None or not 0 <= now - kept.made_at < min(AGAIN_S, kept.ttl_s / 2):
            kept = self._kept[person] = Credentials(*make(), now, ttl_s)
            self._kept.move_to_end(person)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return kept.username, kept.password, int(kept.ttl_s - (now - kept.made_at))


class TurnDirectory:
    """All TURN servers, and which of them are near whom.

    Args:
        offers: the servers.
        regions: the networks of clients that are in each region.
        unix_time: seconds since 1970, by which credentials end.
        clock: seconds, as Trio's.
        draw: gives numbers from 0 to 1, by which servers of different weight take turns.
    Raises:
        ValueError: a network is none.
    """

    def __init__(
        self,
        offers: Sequence[TurnOffer],
        regions: Mapping[str, Sequence[str]] | None = None,
        *,
        unix_time: Callable[[], float] = time.time,
        clock: Callable[[], float] = trio.current_time,
        draw: Callable[[], float] = _draw,
    ) -> None:
        self._offers = tuple(offers)
        self._regions = [
            (network, name) for name, texts in (regions or {}).items() for network in parse_networks(texts)
        ]
        self._regions.sort(key=lambda entry: -entry[0].prefixlen)
        self._unix_time = unix_time
        self._draw = draw
        self._minted = Minted(clock)

    def region_of(self, source: str) -> str:
        """Return the region of a source: that of the smallest network it is in; empty if it is in none."""
        address = _address_of(source)
        return next((name for network, name in self._regions if address is not None and address in network), "")

    def entries(self, source: str) -> list[dict[str, Any]]:
        """Return what a member is told, given its source: the near servers first, then others."""
        if not self._offers:
            return []
        region = self.region_of(source)
        near = [offer for offer in self._offers if offer.region == region]
        far = [offer for offer in self._offers if offer.region != region]
        chosen = [*self._in_turn(near), *self._in_turn(far)][:MAX_OFFERED]
        return [self._entry(offer, source) for offer in chosen]

    def _in_turn(self, offers: Sequence[TurnOffer]) -> list[TurnOffer]:
        """Return offers in an order in which each comes first as often as its share of all weights.

        Source: Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006.
        """
        keyed = [(-math.log(max(self._draw(), 1e-12)) / offer.weight, offer) for offer in offers]
        return [offer for _, offer in sorted(keyed, key=lambda pair: pair[0])]

    def _entry(self, offer: TurnOffer, source: str) -> dict[str, Any]:
        home = home_of(source)
        username, password, ttl_s = self._minted.get((offer.urls, home), lambda: self._make(offer, home), offer.ttl_s)
        return {"urls": list(offer.urls), "username": username, "credential": password, "ttl": ttl_s}

    def _make(self, offer: TurnOffer, home: str) -> tuple[str, str]:
        person = hmac.digest(offer.secret, b"person " + home.encode(), "sha256")[:8].hex()  # reveals no address
        username = f"{int(self._unix_time() + offer.ttl_s)}:{person}"
        return username, base64.b64encode(hmac.digest(offer.secret, username.encode(), "sha1")).decode()


def home_of(source: str) -> str:
    """Return what quotas of a TURN server bind: an IPv4 address, or the IPv6 /56 around a source."""
    address = _address_of(source)
    if address is None or address.version == 4:
        return source
    return str(ipaddress.ip_network((int(address) >> (128 - HOME_PREFIX) << (128 - HOME_PREFIX), HOME_PREFIX)))


def _address_of(source: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    return None if source == UNKNOWN_SOURCE else ipaddress.ip_address(source.partition("/")[0])
