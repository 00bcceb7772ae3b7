"""Preparing user names, realms and passwords: the OpaqueString profile of PRECIS. RFC 8265 section 4.2, RFC 8264."""

from __future__ import annotations

import stringprep
import unicodedata
from typing import Final

# RFC 8264 section 9.6 as RFC 5892 lists it: code points whose category says otherwise but which are allowed or not.
_ALLOWED_EXCEPTIONS: Final = frozenset("\u00df\u03c2\u06fd\u06fe\u0f0b\u3007")
_DISALLOWED_EXCEPTIONS: Final = frozenset("\u0640\u07fa\u302e\u302f\u3031\u3032\u3033\u3034\u3035\u303b")
# RFC 8264 section 9.13 refers to Default_Ignorable_Code_Point; these are the ranges outside of category Cf.
_IGNORABLE: Final = (
    *((0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x3164, 0x3164)),
    *((0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xE0000, 0xE0FFF)),
)
_OLD_HANGUL_JAMO: Final = ((0x1100, 0x11FF), (0xA960, 0xA97C), (0xD7B0, 0xD7C6), (0xD7CB, 0xD7FB))
_DISALLOWED_CATEGORIES: Final = frozenset(("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"))
_JOINERS: Final = ("\u200c", "\u200d")
_VIRAMA: Final = 9


def opaque_string(text: str) -> str:
    """Return `text` as OpaqueString prepares and enforces it: other spaces become U+0020, then NFC.

    Raises:
        ValueError: the text is empty or holds a code point that PRECIS' FreeformClass disallows, such as a control
            character or a soft hyphen.

    Source: RFC 8265 section 4.2.2.
    """
    if text.isascii() and text.isprintable() and text:
        return text
    prepared = "".join(" " if unicodedata.category(char) == "Zs" else char for char in text)
    prepared = unicodedata.normalize("NFC", prepared)
    if not prepared:
        raise ValueError("an empty string is no user name, realm or password")
    for at, char in enumerate(prepared):
        if not _is_freeform(prepared, at):
            raise ValueError(f"code point U+{ord(char):04X} is not allowed in a user name, realm or password")
    return prepared


def _is_freeform(text: str, at: int) -> bool:
    """Return whether the code point at `at` is in FreeformClass there. RFC 8264 sections 4.3 and 8."""
    char = text[at]
    if char in _ALLOWED_EXCEPTIONS:
        return True
    if char in _DISALLOWED_EXCEPTIONS:
        return False
    if char in _JOINERS:
        # RFC 5892 appendix A.1 and A.2: a joiner after a virama; the script-dependent rest of A.1 is not taken up.
        return at > 0 and unicodedata.combining(text[at - 1]) == _VIRAMA
    point = ord(char)
    if _within(point, _IGNORABLE) or _within(point, _OLD_HANGUL_JAMO):
        return False
    return unicodedata.category(char) not in _DISALLOWED_CATEGORIES


def _within(point: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(low <= point <= high for low, high in ranges)


def saslprep(text: str) -> str:
    """Return `text` as SASLprep prepares a query string, for servers of RFC 5389's time.

    Raises:
        ValueError: it holds a prohibited code point, or mixes directions.

    Source: RFC 4013 section 2.
    """
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char)
    )
    prepared = unicodedata.normalize("NFKC", mapped)
    for char in prepared:
        if any(prohibited(char) for prohibited in _SASL_PROHIBITED):
            raise ValueError(f"code point U+{ord(char):04X} is prohibited by SASLprep")
    right_to_left = [char for char in prepared if stringprep.in_table_d1(char)]
    if right_to_left and (
        any(map(stringprep.in_table_d2, prepared))
        or not (stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1]))
    ):
        raise ValueError("the text mixes directions in a way that SASLprep prohibits")
    return prepared


_SASL_PROHIBITED: Final = (
    *(stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3, stringprep.in_table_c4),
    *(stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8),
    stringprep.in_table_c9,
)
