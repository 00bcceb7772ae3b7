"""Codes such as `7-guitar-ozone`, which one person reads out to another: made here, and parsed tolerantly.

Two words of a list of 512 are 18 bits; one guess per code makes that one chance in 262,144.
Source: docs/relay-protocol.md section 6.
"""

from __future__ import annotations

import difflib
import re
import secrets
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

from icesignal.errors import CodeMalformed
from icesignal.expect import expect
from icesignal.url import parse_host
from icesignal.words import WORDS

WORD_COUNT = 2
_LISTED = frozenset(WORDS)
MAX_CODE_CHARACTERS = 320  # the longest host name has 253
_EXAMPLE = "a code looks like 7-guitar-ozone, or 7-guitar-ozone@192.0.2.1:8080"
_SEPARATORS = re.compile(r"[-\s_.,]+")
_NAMEPLATE = re.compile(r"[1-9][0-9]{0,8}\Z")
_WORD = re.compile(r"[a-z]{1,16}\Z")
# What a pasted code stands in: quotes of several languages, brackets, the end of a sentence or a line.
_AROUND = " \t\r\n\"'`<>(){},;.\u00b4\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb\u2039\u203a"
_LABEL = re.compile(r"code\s*:\s*")  # as `listen` prints it


@dataclass(frozen=True, slots=True)
class Code:
    """A code, taken apart. `str()` gives its canonical spelling; `repr()` keeps the words, which are its secret."""

    nameplate: str
    words: tuple[str, ...] = field(repr=False)
    address: str | None = None

    @property
    def password(self) -> str:
        """What both sides feed to the PAKE."""
        return "-".join(self.words)

    @property
    def relay_url(self) -> str | None:
        """The relay that the code itself names."""
        return None if self.address is None else f"ws://{self.address}"

    def check_words(self) -> None:
        """Refuse words that no code has: to try them would only use the code up.

        Raises:
            CodeMalformed: with the nearest word there is.
        """
        for word in self.words:
            if word not in _LISTED:
                nearest = difflib.get_close_matches(word, WORDS, n=1)
                hint = f"did you mean {nearest[0]!r}?" if nearest else "look at it again."
                raise CodeMalformed(
                    f"{word!r} is no word of any code: {hint} Nothing was sent, so the code still works "
                    "(if it does say so, the other side runs another version: install the same on both machines)"
                )

    def __str__(self) -> str:
        at = "" if self.address is None else f"@{self.address}"
        return f"{self.nameplate}-{self.password}{at}"


def generate_words(randbelow: Callable[[int], int] = secrets.randbelow) -> tuple[str, ...]:
    """Return the random words of a new code; 9 bits each."""
    return tuple(WORDS[randbelow(len(WORDS))] for _ in range(WORD_COUNT))


def parse_code(text: str) -> Code:
    """Return the code that a person typed or pasted.

    Any case; spaces, underscores or any dash between its parts; quotes, brackets or a full stop around it.

    Raises:
        CodeMalformed: a `ValueError` that says what is wrong with it; it does not repeat the code.
    """
    expect(str, text=text)
    if len(text) > MAX_CODE_CHARACTERS:
        raise CodeMalformed(f"that is {len(text)} characters long; {_EXAMPLE}")
    folded = "".join(_fold(character) for character in unicodedata.normalize("NFKC", text)).strip(_AROUND)
    head, at, address = folded.partition("@")  # an address may have a zone, whose case counts
    head = head.casefold()
    head = _LABEL.sub("", head, count=1).strip(_AROUND) if head.startswith("code") else head
    if not head and not at:
        raise CodeMalformed(f"the code is empty; {_EXAMPLE}")
    parts = [part for part in _SEPARATORS.split(head) if part]
    if not parts or not _NAMEPLATE.match(parts[0]):
        raise CodeMalformed(f"the code does not begin with a number; {_EXAMPLE}")
    if len(parts) != 1 + WORD_COUNT:
        raise CodeMalformed(f"the code has {len(parts) - 1} words after its number, not {WORD_COUNT}; {_EXAMPLE}")
    for word in parts[1:]:
        if not _WORD.match(word):
            raise CodeMalformed(f"{word!r} is not a word of letters; {_EXAMPLE}")
    code = Code(parts[0], tuple(parts[1:]), parse_host_port(address.replace(" ", "")) if at else None)
    code.check_words()
    return code


def parse_host_port(text: str) -> str:
    """Return `HOST:PORT` in its canonical spelling, IPv6 in brackets, perhaps with a zone.

    Raises:
        CodeMalformed: it is not of that form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and len(port) < 10 and 0 < int(port) <= 65535):
        raise CodeMalformed(f"what is after the @ is not HOST:PORT; {_EXAMPLE}")
    in_brackets = host.startswith("[") and host.endswith("]")
    try:
        literal = parse_host(host[1:-1] if in_brackets else host, in_brackets=in_brackets)
    except ValueError as error:
        raise CodeMalformed(f"what is after the @ is not a host and its port: {error}; {_EXAMPLE}") from None
    return f"[{literal}]:{int(port)}" if in_brackets else f"{literal}:{int(port)}"


def _fold(character: str) -> str:
    """Return `-` for whatever looks like a dash, and nothing for what cannot be seen."""
    category = unicodedata.category(character)
    if category == "Pd" or character in "\u2212\u00af\u02d7\u2043":  # minus sign, macron, modifier minus, hyphen bullet
        return "-"
    return "" if category == "Cf" else character
