"""Multicast DNS on the wire: the few kinds of message that host names need, with dnspython.

Source: RFC 6762, mainly sections 5.4 (unicast responses), 6.7 (legacy queriers), 10 (TTLs) and 18 (format).
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

PORT: Final = 5353
GROUPS: Final = {4: "224.0.0.251", 6: "ff02::fb"}
HOST_TTL_S: Final = 120  # RFC 6762 section 10
LEGACY_TTL_S: Final = 10  # RFC 6762 section 6.7
MAX_MESSAGE: Final = 9000  # RFC 6762 section 17
MAX_ENTRIES: Final = 64  # ours: questions and records of one message; reading many hundreds takes 20 ms

_HEADER: Final = struct.Struct("!6H")  # RFC 1035 section 4.1.1: id, flags, and the counts of four sections
_TOP_BIT: Final = 0x8000
"""Of the class: "answer by unicast" in a question (section 5.4), "flush the cache" in a record (section 10.2)."""
_TYPES: Final = {4: dns.rdatatype.A, 6: dns.rdatatype.AAAA}
_FAMILIES: Final = {dns.rdatatype.A: (4,), dns.rdatatype.AAAA: (6,), dns.rdatatype.ANY: (4, 6)}
_GARBAGE: Final = (dns.exception.DNSException, ValueError, IndexError, KeyError, OverflowError, struct.error)


@dataclass(frozen=True, slots=True)
class MdnsQuestion:
    """Somebody asks for addresses of `name`; `by_unicast`: the answer may be sent to the asker alone."""

    name: str
    families: tuple[int, ...]
    by_unicast: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """`name` has the address `host`, for `ttl_s` seconds; 0 takes it back."""

    name: str
    host: str
    ttl_s: int


@dataclass(frozen=True, slots=True)
class MdnsMessage:
    """What matters of a message. `complete` names the names that have no records but those here (NSEC)."""

    message_id: int
    is_response: bool
    questions: tuple[MdnsQuestion, ...] = ()
    records: tuple[Record, ...] = ()
    complete: frozenset[str] = frozenset()


def encode_query(name: str, families: tuple[int, ...] = (6, 4), *, by_unicast: bool = False) -> bytes:
    """Return a query for the addresses of a name."""
    message = dns.message.Message(id=0)
    message.flags = dns.flags.Flag(0)
    rdclass = dns.rdataclass.RdataClass.make(dns.rdataclass.IN | (_TOP_BIT if by_unicast else 0))
    for family in families:
        message.question.append(dns.rrset.RRset(dns.name.from_text(name), rdclass, _TYPES[family]))
    return message.to_wire()


def encode_answer(record: Record, *, legacy_id: int | None = None, legacy: MdnsQuestion | None = None) -> bytes:
    """Return the response with one record, which says that there is none of the other type.

    Args:
        record: what is announced.
        legacy_id: of the query of one who is no full mDNS participant, which the answer repeats.
        legacy: his question, repeated, too.
    """
    name = dns.name.from_text(record.name)
    message = dns.message.Message(id=legacy_id or 0)
    message.flags = dns.flags.Flag(dns.flags.QR | dns.flags.AA)
    ip = ipaddress.ip_address(record.host.partition("%")[0])
    rdclass = dns.rdataclass.RdataClass.make(dns.rdataclass.IN | (0 if legacy else _TOP_BIT))
    ttl = min(record.ttl_s, LEGACY_TTL_S) if legacy else record.ttl_s
    if legacy is not None:
        for family in legacy.families:
            message.question.append(dns.rrset.RRset(name, dns.rdataclass.IN, _TYPES[family]))
    if legacy is None or ip.version in legacy.families:
        address = dns.rdata.GenericRdata(rdclass, _TYPES[ip.version], ip.packed)
        message.answer.append(dns.rrset.from_rdata(name, ttl, address))
    if record.ttl_s:
        known = dns.rdata.from_text("IN", "NSEC", f"{record.name}. {_TYPES[ip.version].name}")
        negative = dns.rdata.GenericRdata(rdclass, dns.rdatatype.NSEC, known.to_wire() or b"")
        message.additional.append(dns.rrset.from_rdata(name, ttl, negative))
    return message.to_wire()


def parse_untrusted(data: bytes) -> MdnsMessage | None:
    """Return what matters of a message of the network.

    None for garbage, for what is neither query nor response, and for what is longer than anybody needs.
    """
    if not _HEADER.size <= len(data) <= MAX_MESSAGE or sum(_HEADER.unpack_from(data)[2:]) > MAX_ENTRIES:
        return None
    try:
        # What cannot be read is passed over: mDNS compresses names where DNS must not (RFC 6762 section 18.14).
        message = dns.message.from_wire(data, one_rr_per_rrset=True, ignore_trailing=True, continue_on_error=True)
        if message.opcode() != 0 or message.rcode() != 0:
            return None  # RFC 6762 sections 18.3 and 18.11
        questions = tuple(asked for rrset in message.question if (asked := _question(rrset)))
        entries = [*message.answer, *message.additional]
        records = tuple(found for rrset in entries if (found := _record(rrset)))
        complete = frozenset(_text(rrset.name) for rrset in entries if rrset.rdtype == dns.rdatatype.NSEC)
    except _GARBAGE:
        return None
    return MdnsMessage(message.id, bool(message.flags & dns.flags.QR), questions, records, complete)


def _question(rrset: dns.rrset.RRset) -> MdnsQuestion | None:
    families = _FAMILIES.get(rrset.rdtype)
    if families is None or rrset.rdclass & ~_TOP_BIT not in (dns.rdataclass.IN, dns.rdataclass.ANY):
        return None
    return MdnsQuestion(_text(rrset.name), families, bool(rrset.rdclass & _TOP_BIT))


def _record(rrset: dns.rrset.RRset) -> Record | None:
    if rrset.rdtype not in (dns.rdatatype.A, dns.rdatatype.AAAA) or rrset.rdclass & ~_TOP_BIT != dns.rdataclass.IN:
        return None
    wire = next(iter(rrset)).to_wire() or b""
    if len(wire) != (4 if rrset.rdtype == dns.rdatatype.A else 16):
        return None
    return Record(_text(rrset.name), str(ipaddress.ip_address(wire)), rrset.ttl)


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()
