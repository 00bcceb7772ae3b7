"""Codes: what people say, type and mistype."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icesignal.code import WORDS, Code, generate_words, parse_code
from icesignal.errors import CodeMalformed


def test_the_list_has_512_words_that_cannot_be_confused() -> None:
    """512 words are 9 bits each; a word one letter from another would turn a slip of the finger into a dead code."""
    assert len(set(WORDS)) == len(WORDS) == 512
    assert all(3 <= len(word) <= 9 and set(word) <= set(string.ascii_lowercase) for word in WORDS)
    shapes: dict[str, str] = {}
    for word in WORDS:
        for at in range(len(word)):
            shape = word[:at] + "?" + word[at + 1 :]
            assert shape not in shapes, (word, shapes.get(shape))
            shapes[shape] = word


def test_words_are_drawn_evenly_from_the_whole_list() -> None:
    """The draw asks for a number below the length of the list, once per word."""
    asked: list[int] = []

    def randbelow(limit: int) -> int:
        asked.append(limit)
        return len(asked)

    assert generate_words(randbelow) == (WORDS[1], WORDS[2])
    assert asked == [512, 512]


@pytest.mark.parametrize(
    "text",
    [
        "7-guitar-ozone",
        "7-GUITAR-Ozone",
        "  7 guitar ozone \n",
        "7_guitar_ozone",
        "7 - guitar - ozone",
        "7\u2013guitar\u2014ozone",  # what word processors make of dashes
        "7\u2010guitar\u2212ozone",
        "\uff17\uff0dguitar-ozone",  # full-width, from a Japanese keyboard
        "7-\u200bguitar-ozone\u200e",  # invisible characters, from a chat program
        "7, guitar, ozone.",
        '"7-guitar-ozone"',  # with the quotes of a message, or of a shell that does not know them
        "\u201c7-guitar-ozone\u201d.\r\n",
        "`7-guitar-ozone`",
        "(7-guitar-ozone)",
        "code: 7-guitar-ozone",  # as the other side's command printed it
    ],
)
def test_readers_are_tolerant(text: str) -> None:
    """People paste from anywhere."""
    assert parse_code(text) == Code("7", ("guitar", "ozone"))


@pytest.mark.parametrize(
    ("text", "address", "url"),
    [
        ("7-guitar-ozone@192.0.2.1:8080", "192.0.2.1:8080", "ws://192.0.2.1:8080"),
        ("7-guitar-ozone@[2001:DB8:0::1]:8080", "[2001:db8::1]:8080", "ws://[2001:db8::1]:8080"),
        ("7 guitar ozone @ Relay.Example:0443", "relay.example:443", "ws://relay.example:443"),
        ("'7-guitar-ozone@192.0.2.1:8080'\n", "192.0.2.1:8080", "ws://192.0.2.1:8080"),
        ("7-guitar-ozone@my-host:1", "my-host:1", "ws://my-host:1"),
    ],
)
def test_a_code_may_carry_its_relay(text: str, address: str, url: str) -> None:
    """With an embedded relay the code is all that the other side needs."""
    code = parse_code(text)
    assert (code.address, code.relay_url) == (address, url)
    assert parse_code(str(code)) == code


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("guitar-ozone", "does not begin with a number"),
        ("0-guitar-ozone", "does not begin with a number"),
        ("1234567890-guitar-ozone", "does not begin with a number"),
        ("7", "0 words"),
        ("7-guitar", "1 words"),
        ("7-guitar-ozone-piano", "3 words"),
        ("7-gu1tar-ozone", "not a word of letters"),
        ("7-guitar-ozone@", "not HOST:PORT"),
        ("7-guitar-ozone@host", "not HOST:PORT"),
        ("7-guitar-ozone@host:0", "not HOST:PORT"),
        ("7-guitar-ozone@host:65536", "not HOST:PORT"),
        ("7-guitar-ozone@2001:db8::1:80", "brackets"),
        ("7-guitar-ozone@[1.2.3.4]:80", "brackets"),
        ("7-guitar-ozone@ho/st:80", "not a host"),
        ("7-guitar-ozone@user@host:80", "not a host"),
        ("x" * 1000, "1000 characters"),
        ('""', "empty"),
    ],
)
def test_what_is_no_code_is_told_why_and_shown_a_right_one(text: str, says: str) -> None:
    """A `ValueError` whose sentence a command can print as it is."""
    with pytest.raises(ValueError) as caught:
        parse_code(text)
    assert says in str(caught.value)
    assert "7-guitar-ozone" in str(caught.value)


@given(st.text(max_size=40))
@settings(deadline=None)
def test_any_text_is_a_code_or_malformed(text: str) -> None:
    """And what is accepted reads the same once written."""
    try:
        code = parse_code(text)
    except CodeMalformed:
        return
    assert parse_code(str(code)) == code


@pytest.mark.parametrize(("word", "nearest"), [("gitar", "'guitar'"), ("guitars", "'guitar'"), ("zzzzzzzz", "look")])
def test_a_word_of_no_code_is_refused_before_anything_is_sent(word: str, nearest: str) -> None:
    """Tried, it would use the code up, and the other person would have to read out another."""
    for words in ((word, "ozone"), ("ozone", word)):
        with pytest.raises(CodeMalformed, match="still works") as caught:
            parse_code("-".join(("7", *words)))
        assert nearest in str(caught.value)
        with pytest.raises(CodeMalformed):
            Code("7", words).check_words()


def test_trap_67_a_code_shows_its_words_only_where_it_is_asked_for() -> None:
    """`repr()` ends up in logs and in tracebacks, a complaint about a code on other people's screens."""
    code = parse_code("7-guitar-ozone@192.0.2.1:8080")
    assert "7" in repr(code)
    assert not any(word in repr(code) for word in code.words)
    for text in ("guitar-piano", "7-guitar-piano-zebra"):
        with pytest.raises(CodeMalformed) as caught:
            parse_code(text)
        assert "piano" not in str(caught.value)
