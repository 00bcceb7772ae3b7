"""Attributes of connectivity checks. RFC 8445 section 16.1 and draft-thatcher-ice-renomination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from iceagent.core.stun.attribute import Attribute, FlagAttribute, UintAttribute, check_length


class Priority(UintAttribute):
    """PRIORITY: what the priority of a peer-reflexive candidate learned from this check would be; 32 bits."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x0024


class UseCandidate(FlagAttribute):
    """USE-CANDIDATE: the controlling agent nominates this pair."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x0025


@dataclass(frozen=True, slots=True)
class TiebreakerAttribute(Attribute):
    """A 64-bit tiebreaker; which class it is says what role its sender believes to have."""

    tiebreaker: int

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        return self.tiebreaker.to_bytes(8, "big")

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        check_length(cls.__name__, value, 8)
        return cls(int.from_bytes(value, "big"))


class IceControlled(TiebreakerAttribute):
    """ICE-CONTROLLED: the sender is the controlled agent."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x8029


class IceControlling(TiebreakerAttribute):
    """ICE-CONTROLLING: the sender is the controlling agent."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x802A


class Nomination(UintAttribute):
    """NOMINATION: a counter; the pair nominated with the highest one wins. Not registered with IANA.

    The number is the one deployed agents use; IANA has since given it to another, comprehension-optional attribute.
    """

    __slots__ = ()
    TYPE: ClassVar[int] = 0xC001
