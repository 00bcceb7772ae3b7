"""Descriptions: what one side signals to the other, as JSON or as SDP, in one piece or as it is found (trickle).

    text = agent.description().to_json()             # in one piece: after `await agent.wait_gathered()`
    agent.accept(Description.from_json(text))

    async for part in agent.descriptions():          # as it is found, restarts included: carry each part, in order
        await channel.send(part.to_json())

A part has the form of a whole description, and is accepted like one. Candidates that come twice count once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from iceagent.core import sdp
from iceagent.core.checked import check_fields, checked
from iceagent.core.ice import Candidate, Credentials
from iceagent.errors import RemoteError

MAX_CANDIDATES: Final = 256
"""Ours: of each stream of a description that comes from outside; what is beyond is left out, and counted."""
MAX_TEXT: Final = 256 * 1024
"""Ours: characters of a description's text: more than `MAX_CANDIDATES` candidates of a usual length need."""
_MAX_STREAMS: Final = 256
_MAX_OPTIONS: Final = 32

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamDescription:
    """What is signalled for one data stream.

    Attributes:
        credentials: ufrag and password of the ICE session that the candidates belong to.
        candidates: in a part those that are new, of all components.
        end: no candidate follows, as far as is known.
        ignored: how many texts were left out since they are no candidates, or too many.
    """

    credentials: Credentials
    candidates: tuple[Candidate, ...] = ()
    end: bool = False
    ignored: int = 0

    def __post_init__(self) -> None:
        """Raise `WrongType` where a field is of another type."""
        check_fields(self)


@dataclass(frozen=True, slots=True)
class Description:
    """What one agent signals to the other. Made by `Agent.description()`, taken by `Agent.accept()`.

    Attributes:
        streams: in the order of `AgentConfig.streams`, at least one.
        options: ice-options (RFC 8839 section 5.6), such as `trickle` and `renomination`.
        pacing_s: the Ta proposed, seconds; None if nothing is said about it (RFC 8839 section 5.9).
        lite: the agent is a lite one (RFC 8445 section 2.5).
    """

    streams: tuple[StreamDescription, ...]
    options: tuple[str, ...] = ()
    pacing_s: float | None = None
    lite: bool = False

    def __post_init__(self) -> None:
        """Raise `WrongType` where a field is of another type."""
        check_fields(self)

    def to_json(self) -> str:
        """Return one line of JSON.

        `{"streams": [{"ufrag": …, "pwd": …, "candidates": ["candidate:…", …], "end": true}], "options": […],
        "pacing_ms": 20, "lite": false}`
        """
        streams = [
            {
                "ufrag": stream.credentials.ufrag,
                "pwd": stream.credentials.pwd,
                "candidates": [candidate.to_sdp() for candidate in stream.candidates],
                "end": stream.end,
            }
            for stream in self.streams
        ]
        pacing = {} if self.pacing_s is None else {"pacing_ms": round(self.pacing_s * 1000)}
        return json.dumps({"streams": streams, "options": list(self.options), **pacing, "lite": self.lite})

    @classmethod
    def from_json(cls, text: str | bytes) -> Description:
        """Read what `to_json` has written; unknown keys are ignored, texts that are no candidates counted.

        Raises:
            RemoteError: it is no description (a `ValueError`, too).
        """
        if not isinstance(text, str | bytes):
            raise sdp.SdpError(f"a description is text, not {type(text).__name__}")
        if len(text) > MAX_TEXT:
            raise sdp.SdpError(f"a description of {len(text)} characters is longer than {MAX_TEXT}")
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise sdp.SdpError(f"not a description: {text[:40]!r} is no JSON; carry the text of to_json()") from None
        streams = _list_of(found, "streams", Mapping)[:_MAX_STREAMS]
        if not streams:
            raise sdp.SdpError('not a description: it needs "streams", as the text of to_json() has them')
        pacing = found.get("pacing_ms")
        if pacing is not None and not (isinstance(pacing, int | float) and 0 <= pacing <= 10_000):
            raise sdp.SdpError("pacing_ms is not a number within 0 and 10000")
        return cls(
            tuple(map(_stream_of, streams)),
            options=_options(_list_of(found, "options", str)),
            pacing_s=None if pacing is None else pacing / 1000,
            lite=found.get("lite") is True,
        )

    def to_sdp(self) -> str:
        """Return the ICE attributes as lines of SDP, each ended by CR LF.

        Of several streams each begins with an `m=` line of a media type that means nothing but "ICE alone", as libnice
        writes it. Source: RFC 8839 section 5.
        """
        texts = []
        for stream in self.streams:
            attributes = sdp.IceAttributes(
                stream.credentials.ufrag,
                stream.credentials.pwd,
                options=self.options,
                lite=self.lite,
                ta_s=self.pacing_s,
                candidates=tuple(candidate.to_sdp() for candidate in stream.candidates),
                end_of_candidates=stream.end,
            )
            texts.append(sdp.format_attributes(attributes))
        return texts[0] if len(texts) == 1 else "".join("m=- 9 ICE/SDP -\r\n" + text for text in texts)

    @classmethod
    def from_sdp(cls, text: str) -> Description:
        """Read the ICE attributes of a session description, or of a part of one; all else is skipped.

        Each `m=` line begins a stream; what stands before the first holds for those that do not say otherwise (RFC 8839
        section 5.4). Streams that are bundled use one transport: the first of them counts (RFC 9143 section 7.1).

        Raises:
            RemoteError: credentials are missing or malformed, or it is too long (a `ValueError`, too).
        """
        if not isinstance(text, str):
            raise sdp.SdpError(f"SDP is text, not {type(text).__name__}")
        if len(text) > MAX_TEXT:
            raise sdp.SdpError(f"a description of {len(text)} characters is longer than {MAX_TEXT}")
        parsed = [sdp.parse_attributes(section) for section in sdp.ice_sections(text)]
        streams = []
        for found in parsed:
            candidates, ignored = readable(found.candidates)
            credentials = Credentials(found.ufrag, found.pwd)
            streams.append(StreamDescription(credentials, candidates, found.end_of_candidates, ignored))
        first = parsed[0]
        return cls(tuple(streams), options=_options(first.options), pacing_s=first.ta_s, lite=first.lite)

    @checked
    def chunks(self, candidates: int) -> Iterator[Description]:
        """Cut a description of one stream into parts of at most so many candidates, for messages of limited size."""
        (stream,) = self.streams
        last = max(0, len(stream.candidates) - 1) // candidates
        for number in range(last + 1):
            some = stream.candidates[number * candidates : (number + 1) * candidates]
            yield replace(self, streams=(replace(stream, candidates=some, end=stream.end and number == last),))


def _stream_of(found: Mapping[str, Any]) -> StreamDescription:
    ufrag, pwd = found.get("ufrag"), found.get("pwd")
    if not (isinstance(ufrag, str) and isinstance(pwd, str)):
        raise sdp.SdpError('a stream of a description needs the texts "ufrag" and "pwd"')
    candidates, ignored = readable(_list_of(found, "candidates", object))
    return StreamDescription(Credentials(ufrag, pwd), candidates, found.get("end") is True, ignored)


def _list_of(found: object, name: str, kind: type) -> list[Any]:
    value = found.get(name, []) if isinstance(found, Mapping) else None
    if not (isinstance(value, list) and all(isinstance(one, kind) for one in value)):
        raise sdp.SdpError(f'not a description: "{name}" is not the list it should be')
    return value


def _options(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(text[:64] for text in texts[:_MAX_OPTIONS])


def readable(texts: Sequence[object]) -> tuple[tuple[Candidate, ...], int]:
    """Return the candidates among texts from outside, and how many are none, or too many: each costs only itself."""
    found: list[Candidate] = []
    for text in texts[:MAX_CANDIDATES]:
        try:
            if isinstance(text, str):
                found.append(Candidate.from_sdp(text))
        except RemoteError as error:
            _log.debug("left out of a description: %s", error)
    return tuple(found), len(texts) - len(found)
