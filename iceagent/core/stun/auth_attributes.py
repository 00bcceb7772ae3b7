"""Attributes of authentication, message integrity itself aside. RFC 8489 sections 14.4, 14.11 and 14.12."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple, Self

from iceagent.core.stun.attributes import Attribute, BytesAttribute
from iceagent.core.stun.errors import bad_attribute

ALGORITHM_MD5: Final = 0x0001  # RFC 8489 section 18.5
ALGORITHM_SHA256: Final = 0x0002
MAX_ALGORITHMS: Final = 16  # ours: more than the registry will ever hold in use

_HEADER: Final = struct.Struct("!HH")


class Algorithm(NamedTuple):
    """A password algorithm of the IANA registry and its parameters; MD5 and SHA-256 have none."""

    number: int
    parameters: bytes = b""


MD5: Final = Algorithm(ALGORITHM_MD5)
SHA256: Final = Algorithm(ALGORITHM_SHA256)


def _encode(algorithm: Algorithm) -> bytes:
    number, parameters = algorithm
    return _HEADER.pack(number, len(parameters)) + parameters + bytes(-len(parameters) % 4)


def _decode(value: bytes) -> tuple[Algorithm, ...]:
    algorithms: list[Algorithm] = []
    at = 0
    while at < len(value):
        if at + 4 > len(value) or len(algorithms) == MAX_ALGORITHMS:
            raise bad_attribute("a list of password algorithms is cut off or too long")
        number, size = _HEADER.unpack_from(value, at)
        # The attribute's own padding may stand for the last algorithm's.
        if at + 4 + size > len(value):
            raise bad_attribute("the parameters of a password algorithm are cut off")
        algorithms.append(Algorithm(number, value[at + 4 : at + 4 + size]))
        at += 4 + size + -size % 4
    return tuple(algorithms)


class Userhash(BytesAttribute):
    """USERHASH: SHA-256 of `username:realm`, which hides the username. RFC 8489 section 14.4."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x001E
    LENGTH: ClassVar[int | None] = 32


@dataclass(frozen=True, slots=True)
class PasswordAlgorithm(Attribute):
    """PASSWORD-ALGORITHM: the one the client has chosen. RFC 8489 section 14.12."""

    algorithm: Algorithm

    TYPE: ClassVar[int] = 0x001D

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        return _encode(self.algorithm)

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        algorithms = _decode(value)
        if len(algorithms) != 1:
            raise bad_attribute(f"PASSWORD-ALGORITHM holds {len(algorithms)} algorithms")
        return cls(algorithms[0])


@dataclass(frozen=True, slots=True)
class PasswordAlgorithms(Attribute):
    """PASSWORD-ALGORITHMS: those the server accepts, best first. RFC 8489 section 14.11."""

    algorithms: tuple[Algorithm, ...]

    TYPE: ClassVar[int] = 0x8002

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        if len(self.algorithms) > MAX_ALGORITHMS:
            raise ValueError(f"PASSWORD-ALGORITHMS takes at most {MAX_ALGORITHMS}")
        return b"".join(map(_encode, self.algorithms))

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        return cls(_decode(value))
