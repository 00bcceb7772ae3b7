"""Codes: `7-guitar-ozone`, what one person reads out to another. Making them, and reading them tolerantly.

Two words of a list of 512 are 18 bits; one guess per code makes that one chance in 262,144.
Source: docs/relay-protocol.md section 6.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import secrets
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from icesignal.errors import CodeMalformed
from icesignal.words import WORDS

WORD_COUNT = 2
MAX_CODE_CHARACTERS = 320  # the longest host name has 253
_EXAMPLE = "a code looks like 7-guitar-ozone, or 7-guitar-ozone@192.0.2.1:8080"
_SEPARATORS = re.compile(r"[-\s_.,]+")
_NAMEPLATE = re.compile(r"[1-9][0-9]{0,8}\Z")
_WORD = re.compile(r"[a-z]{1,16}\Z")
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,62})(\.[a-z0-9]([a-z0-9-]{0,62}))*\.?\Z")


@dataclass(frozen=True, slots=True)
class Code:
    """A code, taken apart. `str()` gives its canonical spelling."""

    nameplate: str
    words: tuple[str, ...]
    address: str | None = None

    @property
    def password(self) -> str:
        """What both sides feed to the PAKE."""
        return "-".join(self.words)

    @property
    def relay_url(self) -> str | None:
        """The relay that the code itself names."""
        return None if self.address is None else f"ws://{self.address}"

    def unlisted_words(self) -> dict[str, str | None]:
        """Return the words that no generated code has, each with the nearest listed one if there is one."""
        nearest = {word: difflib.get_close_matches(word, WORDS, n=1) for word in self.words if word not in WORDS}
        return {word: found[0] if found else None for word, found in nearest.items()}

    def __str__(self) -> str:
        at = "" if self.address is None else f"@{self.address}"
        return f"{self.nameplate}-{self.password}{at}"


def generate_words(randbelow: Callable[[int], int] = secrets.randbelow) -> tuple[str, ...]:
    """Return the random words of a new code; 9 bits each."""
    return tuple(WORDS[randbelow(len(WORDS))] for _ in range(WORD_COUNT))


def parse_code(text: str) -> Code:
    """Return the code that a person typed: any case, spaces, underscores or any dash between its parts.

    Raises:
        CodeMalformed: a `ValueError` that says what is missing.
    """
    if len(text) > MAX_CODE_CHARACTERS:
        raise CodeMalformed(f"that is {len(text)} characters long; {_EXAMPLE}")
    folded = "".join(_fold(character) for character in unicodedata.normalize("NFKC", text)).casefold().strip()
    if not folded:
        raise CodeMalformed(f"the code is empty; {_EXAMPLE}")
    head, at, address = folded.partition("@")
    parts = [part for part in _SEPARATORS.split(head) if part]
    if not parts or not _NAMEPLATE.match(parts[0]):
        raise CodeMalformed(f"{text!r} does not begin with a number; {_EXAMPLE}")
    if len(parts) != 1 + WORD_COUNT:
        raise CodeMalformed(f"{text!r} has {len(parts) - 1} words after its number, not {WORD_COUNT}; {_EXAMPLE}")
    for word in parts[1:]:
        if not _WORD.match(word):
            raise CodeMalformed(f"{word!r} is not a word of letters; {_EXAMPLE}")
    return Code(parts[0], tuple(parts[1:]), parse_host_port(address.replace(" ", "")) if at else None)


def parse_host_port(text: str) -> str:
    """Return `HOST:PORT` in its canonical spelling, IPv6 in brackets.

    Raises:
        CodeMalformed: it is not of that form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535):
        raise CodeMalformed(f"{text!r} after the @ is not HOST:PORT; {_EXAMPLE}")
    if host.startswith("[") and host.endswith("]"):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]:{int(port)}"
        except ValueError:
            raise CodeMalformed(f"{host!r} is not an IPv6 address in brackets; {_EXAMPLE}") from None
    if not _HOST_NAME.match(host):
        raise CodeMalformed(f"{host!r} is not a host name or address; IPv6 needs brackets; {_EXAMPLE}")
    return f"{host}:{int(port)}"


def _fold(character: str) -> str:
    """Return `-` for whatever looks like a dash, and nothing for what cannot be seen."""
    category = unicodedata.category(character)
    if category == "Pd" or character in "\u2212\u00af\u02d7\u2043":  # minus sign, macron, modifier minus, hyphen bullet
        return "-"
    return "" if category == "Cf" else character
