"""The text forms of ICE: candidate attributes and the session's ICE attributes, RFC 8839 section 5.

Pure grammar. Parsers are liberal (with or without `a=` and `candidate:`, any end-of-candidates form, unknown
extensions kept), formatters strict. Nothing here knows what a candidate means; `core.ice.candidate` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from iceagent.core.constants import (
    FOUNDATION_CHARACTERS,
    MAX_CANDIDATE_EXTENSIONS,
    MAX_CANDIDATE_TEXT,
    PWD_CHARACTERS,
    UFRAG_CHARACTERS,
)
from iceagent.errors import RemoteError

_ICE_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_MAX_LINES: Final = 1024
MAX_SECTIONS: Final = 256
"""Ours: `m=` lines of one description; the largest conferences have a few dozen."""
MAX_VALUE: Final = 512
"""Ours: characters of a session's value; the longest that may be is a password of 256."""
_OF_SESSION: Final = ("ice-ufrag", "ice-pwd", "ice-options", "ice-pacing")


class SdpError(RemoteError, ValueError):
    """A text that is not the attribute it should be; the message quotes it."""


@dataclass(frozen=True, slots=True)
class CandidateFields:
    """The fields of one candidate attribute as written, types unchecked beyond the grammar.

    `host` is an IP literal or a name; `related` is (host, port) or None; `extensions` keeps the order and holds
    everything that follows, `tcptype` included.
    """

    foundation: str
    component: int
    transport: str
    priority: int
    host: str
    port: int
    type: str
    related: tuple[str, int] | None
    extensions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class IceAttributes:
    """The ICE attributes of one description: what two peers exchange besides single candidates.

    `candidates` are candidate texts as `Candidate.from_sdp` takes them; `ta_s` is the pacing the peer proposes.
    """

    ufrag: str
    pwd: str = field(repr=False)
    options: tuple[str, ...] = ("ice2", "trickle")
    lite: bool = False
    ta_s: float | None = None
    candidates: tuple[str, ...] = ()
    end_of_candidates: bool = False


def is_ice_text(text: str, bounds: tuple[int, int]) -> bool:
    """Say whether `text` is made of ice-chars and its length is within `bounds`, both included."""
    return bounds[0] <= len(text) <= bounds[1] and _ICE_CHARACTERS.issuperset(text)


def is_end_of_candidates(value: object) -> bool:
    """Say whether a trickled value means "no more candidates".

    True for None, `""`, `{}`, `{"candidate": ""}` and `{"candidate": None}`, and for `end-of-candidates` or a bare
    `candidate:`, each with or without `a=`: all are sent by one stack or another.

    Source: RFC 8838 section 13, RFC 8839 section 5.7, W3C webrtc section 4.8.
    """
    if isinstance(value, Mapping):
        value = value.get("candidate")
    return value is None or (isinstance(value, str) and _bare(value) in ("", "end-of-candidates"))


def trickled_candidate(value: object) -> str | None:
    """Return the candidate text within a trickled value (a string or a W3C `RTCIceCandidateInit`), or None at the end.

    Raises:
        SdpError: the value is neither.
    """
    if is_end_of_candidates(value):
        return None
    text = value.get("candidate") if isinstance(value, Mapping) else value
    if not isinstance(text, str):
        raise SdpError(f"a trickled candidate is a string or an object with one, not {type(value).__name__}")
    return text


def parse_candidate(text: str) -> CandidateFields:
    """Parse one candidate attribute, with or without `a=` and `candidate:`.

    Raises:
        SdpError: the text does not follow the grammar.

    Source: RFC 8839 section 5.1, RFC 6544 section 4.5.
    """
    if len(text) > MAX_CANDIDATE_TEXT:
        raise SdpError(f"a candidate of {len(text)} characters is longer than {MAX_CANDIDATE_TEXT}")
    words = _bare(text).split()
    if len(words) < 8 or words[6].lower() != "typ":
        raise SdpError(f"not a candidate: {text[:120]!r} (FOUNDATION COMPONENT udp PRIORITY ADDRESS PORT typ TYPE …)")
    if not is_ice_text(words[0], (1, FOUNDATION_CHARACTERS)):
        raise SdpError(f"{words[0][:40]!r} is not a foundation: 1 to 32 letters, digits, + or /")
    related, extensions = _tail(words[8:], text)
    return CandidateFields(
        foundation=words[0],
        component=_number(words[1], "component", 1, 256),
        transport=words[2].lower(),
        priority=_number(words[3], "priority", 0, 2**32 - 1),
        host=words[4],
        port=_number(words[5], "port", 0, 65535),
        type=words[7].lower(),
        related=related,
        extensions=extensions,
    )


def format_candidate(fields: CandidateFields) -> str:
    """Return the attribute with its `candidate:` and without `a=`, as W3C's `RTCIceCandidate.candidate` has it."""
    words = [fields.foundation, str(fields.component), fields.transport, str(fields.priority), fields.host]
    words += [str(fields.port), "typ", fields.type]
    if fields.related is not None:
        words += ["raddr", fields.related[0], "rport", str(fields.related[1])]
    for name, value in fields.extensions:
        words += [name, value]
    return "candidate:" + " ".join(words)


def parse_attributes(text: str) -> IceAttributes:
    """Parse the ICE attributes out of a description: lines of SDP, with or without `a=`; other lines are skipped.

    Candidates are kept as text, so that one that cannot be used costs only itself.

    Raises:
        SdpError: ufrag or pwd are missing or malformed, or there are too many lines.

    Source: RFC 8839 sections 5.1 to 5.8, RFC 8840 section 4.
    """
    lines = text.splitlines()
    if len(lines) > _MAX_LINES:
        raise SdpError(f"a description of {len(lines)} lines is longer than {_MAX_LINES}")
    values: dict[str, str] = {}
    candidates: list[str] = []
    for line in lines:
        name, _, value = line.strip().removeprefix("a=").partition(":")
        if name == "candidate" and value.strip():
            candidates.append(f"candidate:{value.strip()}")
        else:
            values.setdefault(name, value.strip())
    check_credentials(values.get("ice-ufrag", ""), values.get("ice-pwd", ""))
    pacing = values.get("ice-pacing")
    return IceAttributes(
        ufrag=values["ice-ufrag"],
        pwd=values["ice-pwd"],
        options=tuple(values.get("ice-options", "").split()),
        lite="ice-lite" in values,
        ta_s=None if pacing is None else _number(pacing, "ice-pacing", 0, 10**9) / 1000,
        candidates=tuple(candidates),
        end_of_candidates="end-of-candidates" in values,
    )


def ice_sections(text: str) -> list[str]:
    """Return, for each data stream of a description, the lines that hold for it: its own first, then the session's.

    Without an `m=` line all is one stream. A section that has no credentials uses no ICE and is left out, unless none
    has any. Bundled sections share the transport of the one that the group names first, which alone is kept.

    Raises:
        SdpError: there are too many sections.

    Source: RFC 8839 section 5.4, RFC 9143 section 7.1.
    """
    session: list[str] = []
    sections: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("m="):
            sections.append([])
            if len(sections) > MAX_SECTIONS:
                raise SdpError(f"a description of more than {MAX_SECTIONS} sections")
        (sections[-1] if sections else session).append(line)
    if not sections:
        return [text]
    groups = [group.split() for group in _values(session, "group")]
    later = {mid for group in groups if group[:1] == ["BUNDLE"] for mid in group[2:]}
    own = [section for section in sections if later.isdisjoint(_values(section, "mid"))] or sections
    # The session's are copied into each section, so only what may matter there: the sender chooses how much there is.
    common = [f"{name}:{values[0][:MAX_VALUE]}" for name in _OF_SESSION if (values := _values(session, name))]
    common += [line for line in ("a=ice-lite",) if line in map(str.strip, session)]
    whole = ["\n".join([*section, *common]) for section in own]
    return [section for section in whole if _values(section.splitlines(), "ice-ufrag")] or whole[:1]


def _values(lines: Sequence[str], name: str) -> list[str]:
    found = (line.strip().removeprefix("a=").partition(":") for line in lines)
    return [value.strip() for key, _, value in found if key == name]


def format_attributes(attributes: IceAttributes) -> str:
    """Return the attributes as `a=` lines, each ended by CR LF."""
    lines = ["a=ice-lite"] if attributes.lite else []
    lines += [f"a=ice-ufrag:{attributes.ufrag}", f"a=ice-pwd:{attributes.pwd}"]
    if attributes.options:
        lines.append("a=ice-options:" + " ".join(attributes.options))
    if attributes.ta_s is not None:
        lines.append(f"a=ice-pacing:{round(attributes.ta_s * 1000)}")
    lines += ["a=" + candidate.removeprefix("a=") for candidate in attributes.candidates]
    if attributes.end_of_candidates:
        lines.append("a=end-of-candidates")
    return "".join(f"{line}\r\n" for line in lines)


def check_credentials(ufrag: str, pwd: str) -> None:
    """Raise unless both follow the grammar.

    Raises:
        SdpError: ufrag is not 4 to 256 ice-chars or pwd not 22 to 256. The password is not quoted.

    Source: RFC 8839 section 5.4.
    """
    if not is_ice_text(ufrag, UFRAG_CHARACTERS):
        raise SdpError(f"ice-ufrag {ufrag[:40]!r} is not 4 to 256 letters, digits, + or /")
    if not is_ice_text(pwd, PWD_CHARACTERS):
        raise SdpError("ice-pwd is not 22 to 256 letters, digits, + or /")


def _bare(text: str) -> str:
    return text.strip().removeprefix("a=").removeprefix("candidate:").strip()


def _number(word: str, name: str, least: int, most: int) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= 10 and least <= int(word) <= most):
        raise SdpError(f"{name} {word[:40]!r} is not a number within {least} to {most}")
    return int(word)


def _tail(words: list[str], text: str) -> tuple[tuple[str, int] | None, tuple[tuple[str, str], ...]]:
    if len(words) % 2 or len(words) > 2 * MAX_CANDIDATE_EXTENSIONS:
        raise SdpError(f"what follows the type of a candidate comes in pairs, at most 32: {text[:120]!r}")
    pairs: Iterable[tuple[str, str]] = zip(words[::2], words[1::2], strict=True)
    known: dict[str, str] = {}
    extensions: list[tuple[str, str]] = []
    for name, value in pairs:
        if name in ("raddr", "rport"):
            known.setdefault(name, value)
        else:
            extensions.append((name, value))
    related = None
    if "raddr" in known and "rport" in known:
        related = (known["raddr"], _number(known["rport"], "rport", 0, 65535))
    return related, tuple(extensions)
