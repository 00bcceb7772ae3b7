"""Preparing user names, realms and passwords: the OpaqueString profile of PRECIS. RFC 8265 section 4.2, RFC 8264."""

from __future__ import annotations

import stringprep
import unicodedata
from typing import Final


def opaque_string(text: str) -> str:
    """Return `text` as OpaqueString prepares and enforces it: other spaces become U+0020, then NFC.

    Raises:
        ValueError: the text is empty or holds a code point that PRECIS' FreeformClass disallows, such as a control
            character or a soft hyphen.

    Source: RFC 8265 section 4.2.2.
    """
    if text.isascii() and text.isprintable() and text:
        return text  # nearly always, and without the tables that the library loads
    if not text:
        raise ValueError("an empty string is no user name, realm or password")
    import precis_i18n

    try:
        return precis_i18n.get_profile("OpaqueString").enforce(text)
    except UnicodeEncodeError as error:  # it holds the text, which may be a password: it goes no further
        code_point = ord(error.object[error.start])
    raise ValueError(f"code point U+{code_point:04X} is not allowed in a user name, realm or password")


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
