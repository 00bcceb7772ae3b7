"""Candidates: what a peer may be reached at, RFC 8445 section 5.1 and RFC 8839 section 5.1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from iceagent.core import sdp
from iceagent.core.address import TransportAddress, make_address, without_zone
from iceagent.core.ice.model.priority import CandidateType, candidate_priority, foundation
from iceagent.errors import WrongType

_NAME_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._")


class CandidateError(sdp.SdpError):
    """A candidate that cannot be understood or used; the message says why."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A transport address at which an agent may be reached.

    Attributes:
        foundation: equal for candidates that probably live and die together.
        component: 1 to 256; this agent uses 1.
        transport: "udp" or "tcp".
        priority: 32 bits; higher is better.
        address: the address to send to; its host may be a name when it was parsed from SDP.
        type: how it was learned.
        base: the socket (or relay) address it is sent from; None for remote candidates.
        related_address: for diagnosis only: the base of a reflexive candidate, the mapped address of a relayed one.
        tcp_type: "active", "passive" or "so" for TCP (RFC 6544 section 4.5), else None.
        extensions: name and value of all other fields, in order (`generation`, `ufrag`, `network-cost` …).
        name: the `.local` name that a remote candidate was signalled under, if its address was looked up.
    """

    foundation: str
    component: int
    transport: str
    priority: int
    address: TransportAddress
    type: CandidateType
    base: TransportAddress | None = None
    related_address: TransportAddress | None = None
    tcp_type: str | None = None
    extensions: tuple[tuple[str, str], ...] = ()
    name: str | None = None

    @classmethod
    def from_sdp(cls, text: str) -> Candidate:
        """Parse a candidate attribute, with or without `a=` and `candidate:`.

        Raises:
            WrongType: it is no text.
            CandidateError: the text is not a candidate, or its type is unknown. A `ValueError`, too.

        Source: RFC 8839 section 5.1.
        """
        if not isinstance(text, str):
            raise WrongType(f"the text of a candidate must be str, not {type(text).__name__}")
        try:
            fields = sdp.parse_candidate(text)
        except sdp.SdpError as error:
            raise CandidateError(str(error)) from None
        try:
            kind = CandidateType(fields.type)
        except ValueError:
            raise CandidateError(f"candidate type {fields.type[:20]!r} is not host, srflx, prflx or relay") from None
        tcp_type = next((value.lower() for name, value in fields.extensions if name == "tcptype"), None)
        return cls(
            foundation=fields.foundation,
            component=fields.component,
            transport=fields.transport,
            priority=fields.priority,
            address=_lenient_address(fields.host, fields.port),
            type=kind,
            related_address=None if fields.related is None else _lenient_address(*fields.related),
            tcp_type=tcp_type,
            extensions=tuple(pair for pair in fields.extensions if pair[0] != "tcptype"),
        )

    def to_sdp(self) -> str:
        """Return the candidate as `candidate:…`, without `a=`; zones of link-local addresses are left out."""
        related = self.related_address
        if related is None and self.type is not CandidateType.HOST:
            # RFC 8839 section 5.1: raddr and rport MUST be there for other types; 0.0.0.0:9 says "not given".
            related = TransportAddress("0.0.0.0" if self.address.family == 4 else "::", 9)  # noqa: S104
        tcp = () if self.tcp_type is None else (("tcptype", self.tcp_type),)
        return sdp.format_candidate(
            sdp.CandidateFields(
                foundation=self.foundation,
                component=self.component,
                transport=self.transport,
                priority=self.priority,
                host=without_zone(self.address).host,
                port=self.address.port,
                type=self.type.value,
                related=None if related is None else (without_zone(related).host, related.port),
                extensions=tcp + self.extensions,
            )
        )

    @property
    def path_base(self) -> TransportAddress:
        """The address packets of this candidate leave from: its base, or for want of one its own address."""
        return self.address if self.base is None else self.base


def host_candidate(address: TransportAddress, local_preference: int = 65535, component: int = 1) -> Candidate:
    """Return the host candidate of a bound UDP socket.

    Args:
        address: the socket's own address.
        local_preference: 0 to 65535, unique per address.
        component: 1 to 256.
    """
    kind = CandidateType.HOST
    priority = candidate_priority(kind, local_preference, component)
    return Candidate(foundation(kind, address.host), component, "udp", priority, address, kind, base=address)


def srflx_candidate(
    address: TransportAddress,
    base: TransportAddress,
    server_host: str,
    local_preference: int = 65535,
    component: int = 1,
) -> Candidate:
    """Return the server-reflexive candidate that a STUN server has seen of a bound UDP socket.

    Args:
        address: the mapped address.
        base: the socket's own address.
        server_host: IP address of the server: candidates of different servers freeze and thaw apart.
        local_preference: that of the base.
        component: 1 to 256.
    """
    kind = CandidateType.SRFLX
    return Candidate(
        foundation=foundation(kind, base.host, server_host),
        component=component,
        transport="udp",
        priority=candidate_priority(kind, local_preference, component),
        address=address,
        type=kind,
        base=base,
        related_address=base,
    )


def relay_candidate(
    address: TransportAddress,
    server_host: str,
    local_preference: int = 65535,
    related: TransportAddress | None = None,
    component: int = 1,
) -> Candidate:
    """Return the relayed candidate that a TURN server has allocated.

    Args:
        address: the relayed address, which is its own base (RFC 8445 section 5.1.1.2).
        server_host: IP address or name of the server.
        local_preference: 0 to 65535, unique per address.
        related: the mapped address, for diagnosis; None keeps it from the peer.
        component: 1 to 256.
    """
    kind = CandidateType.RELAY
    return Candidate(
        foundation=foundation(kind, address.host, server_host),
        component=component,
        transport="udp",
        priority=candidate_priority(kind, local_preference, component),
        address=address,
        type=kind,
        base=address,
        related_address=related,
    )


def local_prflx_candidate(address: TransportAddress, sent_from: Candidate, priority: int) -> Candidate:
    """Return the peer-reflexive candidate a response to one of our checks has revealed (RFC 8445 section 7.2.5.3.1)."""
    kind = CandidateType.PRFLX
    base = sent_from.path_base
    return replace(
        sent_from,
        foundation=foundation(kind, base.host, transport=sent_from.transport),
        priority=priority,
        address=address,
        type=kind,
        base=base,
        related_address=base,
    )


def remote_prflx_candidate(
    address: TransportAddress,
    priority: int,
    component: int = 1,
    *,
    transport: str = "udp",
    tcp_type: str | None = None,
) -> Candidate:
    """Return the peer-reflexive candidate one of the peer's checks has revealed.

    Its foundation only has to differ from all others (RFC 8445 section 7.3.1.3), so it is made of the whole address.
    """
    kind = CandidateType.PRFLX
    unique = foundation(kind, str(address), "remote", transport)
    return Candidate(unique, component, transport, priority, address, kind, tcp_type=tcp_type)


def _lenient_address(host: str, port: int) -> TransportAddress:
    """Return a signalled address, or a name, without its zone, which means something only to its sender."""
    try:
        return without_zone(make_address(host, port))
    except ValueError:
        if not _NAME_CHARACTERS.issuperset(host):
            raise CandidateError(f"{host[:60]!r} is neither an IP address nor a name") from None
        return TransportAddress(host.lower(), port)  # a name: `.local` of RFC 8828, or one to resolve
