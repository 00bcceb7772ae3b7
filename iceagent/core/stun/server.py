"""A Binding server without I/O: it reports to each client the address it comes from, and nothing else.

Source: RFC 8489 sections 6.3.1 and 12 (basic server behavior); for clients of RFC 3489, RFC 5389 section 12.2.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from iceagent.core.address import TransportAddress
from iceagent.core.constants import STUN_FREE_BYTES, STUN_MAX_SOURCES, STUN_SOURCE_BURST, STUN_SOURCE_RATE_PER_S
from iceagent.core.stun.attributes import (
    COMPREHENSION_OPTIONAL,
    Attribute,
    MappedAddress,
    Nonce,
    RawAttribute,
    Realm,
    Software,
    Username,
    XorMappedAddress,
)
from iceagent.core.stun.auth_attributes import PasswordAlgorithm, Userhash
from iceagent.core.stun.error_attributes import Code, UnknownAttributes
from iceagent.core.stun.errors import StunError
from iceagent.core.stun.message import Message, decode, encode, error, success
from iceagent.core.stun.rate_limit import AnswerBudget, RateLimiter
from iceagent.core.stun.raw import COOKIE_BYTES, MessageClass, Method, looks_like_stun

_TOLERATED: Final = frozenset((Username, Userhash, Realm, Nonce, PasswordAlgorithm))
"""Comprehension-required attributes we know and have no use for: we answer whether or not a client has credentials."""
_BINDING_INDICATION: Final = b"\x00\x11"
_CLASSIC_REQUEST: Final = b"\x00\x01"  # a Binding request
_MAX_UNKNOWN: Final = 32  # ours: types named in one 420; the rest will show when these are gone


@dataclass(frozen=True, slots=True)
class BindingLimits:
    """What one source (an IPv4 address, an IPv6 /64) may ask for.

    Attributes:
        rate_per_s: requests a second, sustained.
        burst: requests at once; an agent behind one NAT asks for each of its interfaces and families.
        max_sources: sources remembered; the oldest is forgotten first.
        free_bytes: sent to one source in a second beyond what came from it. An answer is longer than a bare question
            (32 bytes for 20, over IPv6 44), so that a forged source would otherwise be hit by more than was sent.
    """

    rate_per_s: float = STUN_SOURCE_RATE_PER_S
    burst: float = STUN_SOURCE_BURST
    max_sources: int = STUN_MAX_SOURCES
    free_bytes: int = STUN_FREE_BYTES


class BindingServer:
    """Answers Binding requests.

    `counters` shows what became of all datagrams: `answered`, `unknown_attributes`, `indication`, `rate_limited`,
    `unpaid`, `no_port`, `response`, `method`, `bad_fingerprint`, and the values of `StunErrorReason`.

    Args:
        limits: per source.
        software: for SOFTWARE; empty for none, which keeps responses small and says nothing to scanners.
    """

    def __init__(self, *, limits: BindingLimits | None = None, software: str = "") -> None:
        limits = limits or BindingLimits()
        self._limiter = RateLimiter(
            rate_per_s=limits.rate_per_s,
            burst=limits.burst,
            max_sources=limits.max_sources,
        )
        self._budget = AnswerBudget(free_bytes=limits.free_bytes, max_sources=limits.max_sources)
        self._extras: tuple[Attribute, ...] = (Software(software),) if software else ()
        self.counters: Counter[str] = Counter()

    @property
    def sources(self) -> int:
        """How many sources are remembered."""
        return len(self._limiter)

    def handle_datagram(
        self,
        now: float,
        local: TransportAddress,
        remote: TransportAddress,
        data: bytes,
    ) -> bytes | None:
        """Return the datagram to send from `local` back to `remote`, or None.

        Args:
            now: seconds.
            local: the address it came to.
            remote: the address it came from.
            data: whatever came.
        """
        if not looks_like_stun(data):
            return self._handle_classic(now, remote, data)
        if data.startswith(_BINDING_INDICATION):
            return self._drop("indication")  # a keepalive: it costs us nothing, and must not use up anybody's share
        if not self._limiter.allow(now, remote.host):
            return self._drop("rate_limited")
        if remote.port == 0:
            return self._drop("no_port")
        try:
            message = decode(data)
        except StunError as malformed:
            return self._drop(malformed.reason.value)
        if message.method != Method.BINDING:
            return self._drop("method")
        if message.verify_fingerprint() is False:
            return self._drop("bad_fingerprint")
        if message.message_class is not MessageClass.REQUEST:
            return self._drop("response")
        answer = self._answer(message, XorMappedAddress(remote))
        return self._pay(now, remote, data, answer, encode(answer, fingerprint=message.has_fingerprint))

    def _handle_classic(self, now: float, remote: TransportAddress, data: bytes) -> bytes | None:
        """Answer a client of RFC 3489, as libnice is while it gathers: it knows no cookie and no XOR-MAPPED-ADDRESS.

        What stands in the cookie's place belongs to its transaction id. Source: RFC 5389 section 12.2.
        """
        if not data.startswith(_CLASSIC_REQUEST):
            return self._drop("not_stun")
        modern = data[:4] + COOKIE_BYTES + data[8:]
        if not looks_like_stun(modern):
            return self._drop("not_stun")
        if not self._limiter.allow(now, remote.host):
            return self._drop("rate_limited")
        if remote.port == 0:
            return self._drop("no_port")
        try:
            request = decode(modern)
        except StunError as malformed:
            return self._drop(malformed.reason.value)
        answer = self._answer(request, MappedAddress(remote))
        encoded = encode(answer, fingerprint=False)
        return self._pay(now, remote, data, answer, encoded[:4] + data[4:8] + encoded[8:])

    def _pay(
        self, now: float, remote: TransportAddress, question: bytes, answer: Message, encoded: bytes
    ) -> bytes | None:
        """Return an answer, encoded, if bytes of its source pay for it."""
        if not self._budget.allows(now, remote.host, len(question), len(encoded)):
            return self._drop("unpaid")
        self.counters["answered" if answer.message_class is MessageClass.SUCCESS else "unknown_attributes"] += 1
        return encoded

    def _answer(self, request: Message, mapped: MappedAddress | XorMappedAddress) -> Message:
        unknown = tuple(dict.fromkeys(kind for kind in map(_required_type, request.attributes) if kind is not None))
        if unknown:
            attribute = UnknownAttributes(unknown[:_MAX_UNKNOWN])
            return error(request, Code.UNKNOWN_ATTRIBUTE, "", attribute, *self._extras)
        return success(request, mapped, *self._extras)

    def _drop(self, reason: str) -> bytes | None:
        """Count a datagram that gets no answer, and be that answer."""
        self.counters[reason] += 1
        return None


def _required_type(attribute: Attribute) -> int | None:
    """Return the type of an attribute that this server would have to understand and does not; None for others."""
    kind = attribute.type if type(attribute) is RawAttribute else attribute.TYPE
    return kind if kind < COMPREHENSION_OPTIONAL and type(attribute) not in _TOLERATED else None
