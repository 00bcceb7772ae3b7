"""A Binding server with two addresses and two ports, which NAT behaviour discovery needs. RFC 5780 section 6."""

from __future__ import annotations

from typing import Final, NamedTuple

from iceagent.core.address import TransportAddress
from iceagent.core.stun.attributes import Attribute, XorMappedAddress
from iceagent.core.stun.behaviour_attributes import ChangeRequest, OtherAddress, Padding, ResponseOrigin, ResponsePort
from iceagent.core.stun.error_attributes import Code, UnknownAttributes
from iceagent.core.stun.errors import StunError
from iceagent.core.stun.message import Message, decode, encode, error, success
from iceagent.core.stun.rate_limit import AnswerBudget, RateLimiter
from iceagent.core.stun.raw import MessageClass, Method, looks_like_stun
from iceagent.core.stun.server import BindingLimits, BindingServer

BEHAVIOUR_LIMITS: Final = BindingLimits(rate_per_s=20.0, burst=100.0)
"""Lower than a plain server's: answers are larger, and RESPONSE-PORT lets them go where nobody asked from."""
MAX_PADDING: Final = 1500  # bytes; enough to be cut to pieces anywhere


class Reply(NamedTuple):
    """A datagram to send from `source`, one of the server's own addresses, to `target`."""

    source: TransportAddress
    target: TransportAddress
    data: bytes


class BehaviourServer:
    """Answers Binding requests with RESPONSE-ORIGIN and OTHER-ADDRESS, and obeys CHANGE-REQUEST.

    What is no well-formed Binding request is left to `binding`, which answers old clients and counts the rest.

    Args:
        binding: the plain server; its counters count here, too.
        first: one address.
        second: another one; both IP and port must differ, and the server must own all four combinations.

    Raises:
        ValueError: the addresses have a host or a port in common.
    """

    def __init__(self, binding: BindingServer, first: TransportAddress, second: TransportAddress) -> None:
        if first.host == second.host or first.port == second.port or first.family != second.family:
            raise ValueError(f"{first} and {second} must differ in IP and port and be of one family")
        self._binding = binding
        self._hosts = {first.host: second.host, second.host: first.host}
        self._ports = {first.port: second.port, second.port: first.port}
        limits = BEHAVIOUR_LIMITS
        self._limiter = RateLimiter(rate_per_s=limits.rate_per_s, burst=limits.burst, max_sources=limits.max_sources)
        self._budget = AnswerBudget(free_bytes=limits.free_bytes, max_sources=limits.max_sources)

    @property
    def addresses(self) -> tuple[TransportAddress, ...]:
        """All four addresses."""
        return tuple(TransportAddress(host, port) for host in self._hosts for port in self._ports)

    def handle_datagram(
        self, now: float, local: TransportAddress, remote: TransportAddress, data: bytes
    ) -> Reply | None:
        """Return what to send where and from where, or None.

        Args:
            now: seconds.
            local: the address it came to, one of the four.
            remote: the address it came from.
            data: whatever came.
        """
        request = _binding_request(data)
        if request is None or remote.port == 0:
            answer = self._binding.handle_datagram(now, local, remote, data)
            return None if answer is None else Reply(local, remote, answer)
        if not self._limiter.allow(now, remote.host):
            self._binding.counters["rate_limited"] += 1
            return None
        reply = self._answer(request, local, remote)
        if not self._budget.allows(now, remote.host, len(data), len(reply.data)):
            self._binding.counters["unpaid"] += 1
            return None
        self._binding.counters["answered"] += 1
        return reply

    def _answer(self, request: Message, local: TransportAddress, remote: TransportAddress) -> Reply:
        fingerprint = request.has_fingerprint
        unknown = request.unknown_comprehension_required
        if unknown:
            refusal = error(request, Code.UNKNOWN_ATTRIBUTE, "", UnknownAttributes(unknown[:32]))
            return Reply(local, remote, encode(refusal, fingerprint=fingerprint))
        change = request.get(ChangeRequest) or ChangeRequest()
        padding, port = request.get(Padding), request.get(ResponsePort)
        if padding is not None and port is not None:  # RFC 5780 section 7.6 forbids both
            return Reply(local, remote, encode(error(request, Code.BAD_REQUEST), fingerprint=fingerprint))
        source = TransportAddress(
            self._hosts[local.host] if change.change_ip else local.host,
            self._ports[local.port] if change.change_port else local.port,
        )
        other = TransportAddress(self._hosts[local.host], self._ports[local.port])
        attributes: list[Attribute] = [XorMappedAddress(remote), ResponseOrigin(source), OtherAddress(other)]
        if padding is not None:
            attributes.append(Padding(bytes(min(len(padding.value), MAX_PADDING))))
        target = remote if port is None or port.port == 0 else TransportAddress(remote.host, port.port)
        return Reply(source, target, encode(success(request, *attributes), fingerprint=fingerprint))


def _binding_request(data: bytes) -> Message | None:
    """Return a well-formed Binding request with the cookie; None for everything else."""
    if not looks_like_stun(data):
        return None
    try:
        message = decode(data)
    except StunError:
        return None
    is_request = message.method == Method.BINDING and message.message_class is MessageClass.REQUEST
    return message if is_request and message.verify_fingerprint() is not False else None
