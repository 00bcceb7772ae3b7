"""The text forms of RFC 8839: liberal in what is read, strict in what is written."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iceagent.core import sdp

LINE = "candidate:842163049 1 udp 1677729535 203.0.113.5 41000 typ srflx raddr 192.0.2.1 rport 1 generation 0 ufrag Es"
ICE_CHARACTERS = st.sampled_from("ABCxyz019+/")
WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)


def test_a_browsers_candidate_is_read_and_written_back_unchanged() -> None:
    """Unknown extensions are kept in their order."""
    fields = sdp.parse_candidate(LINE)
    assert fields.host == "203.0.113.5"
    assert fields.port == 41000
    assert fields.type == "srflx"
    assert fields.related == ("192.0.2.1", 1)
    assert fields.extensions == (("generation", "0"), ("ufrag", "Es"))
    assert sdp.format_candidate(fields) == LINE


@pytest.mark.parametrize(
    "bad",
    [
        "candidate:",
        "1 1 udp 1 192.0.2.1 1000 host",
        "1 1 udp 1 192.0.2.1 1000 type host",
        "1 1 udp x 192.0.2.1 1000 typ host",
        "1 0 udp 1 192.0.2.1 1000 typ host",
        "1 257 udp 1 192.0.2.1 1000 typ host",
        "1 1 udp 4294967296 192.0.2.1 1000 typ host",
        "1 1 udp 1 192.0.2.1 65536 typ host",
        "1 1 udp 1 192.0.2.1 -1 typ host",
        "1 1 udp 1 192.0.2.1 ١ typ host",
        "a_b 1 udp 1 192.0.2.1 1000 typ host",
        "1" * 33 + " 1 udp 1 192.0.2.1 1000 typ host",
        "1 1 udp 1 192.0.2.1 1000 typ host dangling",
        "1 1 udp 1 192.0.2.1 1000 typ host raddr 1.2.3.4 rport x",
        "1 1 udp 1 192.0.2.1 1000 typ host" + " a b" * 33,
        "1 1 udp 1 " + "h" * 3000 + " 1000 typ host",
    ],
)
def test_what_is_no_candidate_is_refused_with_its_text(bad: str) -> None:
    """One exception class, a ValueError, and a message that says what is wrong."""
    with pytest.raises(sdp.SdpError) as caught:
        sdp.parse_candidate(bad)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) > 20


@given(st.text(max_size=300))
def test_no_text_raises_anything_else(text: str) -> None:
    """Signaling is network input, too."""
    for parse in (sdp.parse_candidate, sdp.parse_attributes):
        with suppress(sdp.SdpError):
            parse(text)


@given(
    st.builds(
        sdp.CandidateFields,
        foundation=st.text(ICE_CHARACTERS, min_size=1, max_size=32),
        component=st.integers(1, 256),
        transport=st.sampled_from(["udp", "tcp"]),
        priority=st.integers(0, 2**32 - 1),
        host=st.sampled_from(["192.0.2.1", "2001:db8::1", "8d2b.local"]),
        port=st.integers(0, 65535),
        type=st.sampled_from(["host", "srflx", "prflx", "relay", "later"]),
        related=st.none() | st.tuples(st.just("192.0.2.2"), st.integers(0, 65535)),
        extensions=st.lists(
            st.tuples(WORDS.filter(lambda word: word not in ("raddr", "rport")), WORDS), max_size=5
        ).map(tuple),
    )
)
def test_what_is_written_is_read_back(fields: sdp.CandidateFields) -> None:
    """For all candidates."""
    assert sdp.parse_candidate(sdp.format_candidate(fields)) == fields
    assert sdp.parse_candidate("a=" + sdp.format_candidate(fields)) == fields


def test_a_description_is_written_and_read_back() -> None:
    """Credentials, options, lite, pacing, candidates and the end of them."""
    attributes = sdp.IceAttributes("EsAw", "x" * 22, ("ice2", "trickle"), True, 0.02, (LINE,), True)
    text = sdp.format_attributes(attributes)
    assert text.startswith("a=ice-lite\r\na=ice-ufrag:EsAw\r\n")
    assert sdp.parse_attributes(text) == attributes


def test_a_whole_sdp_is_searched_for_its_ice_attributes() -> None:
    """Other lines do not disturb."""
    text = f"v=0\r\nm=application 9 UDP x\r\na=ice-ufrag:EsAw\r\na=ice-pwd:{'x' * 22}\r\na={LINE}\r\n"
    attributes = sdp.parse_attributes(text)
    assert attributes.ufrag == "EsAw"
    assert attributes.candidates == (LINE,)
    assert attributes.options == ()
    assert not attributes.end_of_candidates


@pytest.mark.parametrize(
    ("ufrag", "pwd"), [("abc", "x" * 22), ("abcd", "x" * 21), ("a:cd", "x" * 22), ("abcd", " " * 22)]
)
def test_credentials_that_break_the_grammar_are_refused(ufrag: str, pwd: str) -> None:
    """Too short is too weak (RFC 8445 section 5.3), and a colon would break USERNAME."""
    with pytest.raises(sdp.SdpError) as caught:
        sdp.check_credentials(ufrag, pwd)
    assert pwd not in str(caught.value), "passwords are not quoted"


def test_a_trickled_value_of_another_kind_is_refused() -> None:
    """Rather than being taken for the end."""
    with pytest.raises(sdp.SdpError):
        sdp.trickled_candidate(7)
    with pytest.raises(sdp.SdpError):
        sdp.trickled_candidate({"candidate": 7})
