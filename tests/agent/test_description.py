"""One value to carry: what an agent tells, whole or in parts, as JSON or SDP, and what comes in from outside."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from virtual_pair import two_agents

from iceagent.agent import Agent, AgentState, Candidate, Credentials, Description, StreamDescription
from iceagent.agent.description import MAX_CANDIDATES
from iceagent.core import sdp
from iceagent.errors import LocalError, RemoteError
from iceagent.vnet import PORT_RESTRICTED

PWD = "0123456789012345678901"
HOST = "candidate:1 1 udp 2130706431 192.0.2.7 4000 typ host"
FIRST = StreamDescription(Credentials("abcd", PWD), (Candidate.from_sdp(HOST),), end=True)
SECOND = StreamDescription(Credentials("efgh", PWD))


@pytest.mark.parametrize("streams", [(FIRST,), (FIRST, SECOND)])
@pytest.mark.parametrize("pacing_s", [None, 0.02])
@pytest.mark.parametrize("lite", [False, True])
def test_what_is_written_is_read_again(streams: Any, pacing_s: float | None, lite: bool) -> None:
    """Both forms say all there is to say."""
    value = Description(streams, ("ice2", "trickle"), pacing_s, lite)
    assert Description.from_json(value.to_json()) == value
    assert Description.from_sdp(value.to_sdp()) == value
    assert "\n" not in value.to_json()
    assert PWD not in repr(value)


def test_a_browsers_description_with_a_bundle_is_one_stream() -> None:
    """RFC 9143: the bundled sections use the transport of the one the group names first."""
    text = (
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE a b\r\na=ice-options:trickle\r\n"
        f"m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:a\r\na=ice-ufrag:abcd\r\na=ice-pwd:{PWD}\r\na={HOST}\r\n"
        f"a=end-of-candidates\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:b\r\na=ice-ufrag:abcd\r\na=ice-pwd:{PWD}\r\n"
        "m=application 0 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:c\r\n"
    )
    assert Description.from_sdp(text) == Description((FIRST,), ("trickle",))


def test_credentials_of_the_session_hold_for_every_stream() -> None:
    """RFC 8839 section 5.4."""
    text = f"a=ice-ufrag:abcd\na=ice-pwd:{PWD}\nm=audio 9 x y\na={HOST}\nm=video 9 x y\na=ice-ufrag:efgh\n"
    first, second = Description.from_sdp(text).streams
    assert (first.credentials.ufrag, second.credentials.ufrag) == ("abcd", "efgh")
    assert [len(first.candidates), len(second.candidates)] == [1, 0]


def test_what_is_no_candidate_costs_only_itself() -> None:
    """A peer of another make may send kinds nobody knows here."""
    texts = [HOST, "candidate:1 1 udp 1 192.0.2.7 1 typ martian", 7, None, *([HOST] * MAX_CANDIDATES)]
    (stream,) = Description.from_json(
        json.dumps({"streams": [{"ufrag": "abcd", "pwd": PWD, "candidates": texts}]})
    ).streams
    assert len(stream.candidates) == MAX_CANDIDATES - 3
    assert stream.ignored == 3 + 4
    assert not stream.end


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["streams", "options", "pacing_ms", "ufrag", "pwd", "candidates", "end"]), inner
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_no_json_from_outside_raises_anything_else(value: object) -> None:
    """What a peer says, whoever it is, is refused in a sentence."""
    with suppress(RemoteError):
        Description.from_json(json.dumps(value))


@given(st.text(alphabet="am=:ice-ufragpwdcandidte0 \r\n", max_size=200) | st.text(max_size=100))
def test_no_sdp_from_outside_raises_anything_else(text: str) -> None:
    """Likewise."""
    with suppress(RemoteError):
        Description.from_sdp(text + f"\na=ice-ufrag:abcd\na=ice-pwd:{PWD}")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"streams": []}', "[" * 100_000, "x" * 300_000])
def test_what_is_no_description_is_refused(text: str) -> None:
    """In a sentence, that shows no more than the beginning of it."""
    with pytest.raises(RemoteError) as caught:
        Description.from_json(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [None, 5, memoryview(b"{}"), ["streams"]])
def test_what_is_no_text_is_refused(value: Any) -> None:
    """In the same words, whichever form was expected."""
    with pytest.raises(RemoteError, match="text, not"):
        Description.from_json(value)
    with pytest.raises(RemoteError, match="text, not"):
        Description.from_sdp(value)


@pytest.mark.parametrize(
    "text",
    [
        "a=junk:" + "x" * 150_000 + "\n" + "m=\n" * 256,
        "a=ice-options:" + "x" * 150_000 + "\n" + "m=\n" * 256,
        "\n" * 100_000 + "m=-\n" * 256,
        "a=group:" + " " * 100_000 + "x\n" + "m=-\na=mid:" + " " * 100_000 + "x\n",
    ],
)
def test_the_lines_of_a_session_are_not_multiplied_by_its_sections(text: str) -> None:
    """They hold for every section, and a stranger chooses how many there are of both."""
    credentials = f"a=ice-ufrag:abcd\na=ice-pwd:{PWD}\n"
    assert sum(map(len, sdp.ice_sections(credentials + text))) < 2 * len(text) + 256 * 1024
    for stream in Description.from_sdp(credentials + text).streams:
        assert stream.credentials.ufrag == "abcd"


def test_a_description_of_endless_sections_is_refused() -> None:
    """As one in JSON is cut."""
    with pytest.raises(RemoteError, match="more than 256 sections"):
        Description.from_sdp(f"a=ice-ufrag:abcd\na=ice-pwd:{PWD}\n" + "m=\n" * 50_000)


async def carry(source: Agent, target: Agent) -> None:
    """Carry every part, by way of text."""
    async for part in source.descriptions():
        target.accept(Description.from_json(part.to_json()))


@pytest.mark.parametrize("layout", [(1,), (2, 1)])
async def test_parts_carried_in_order_are_all_the_signaling_there_is(vnet: Any, layout: tuple[int, ...]) -> None:
    """Candidates as they come, their end, and restarts of either side."""
    async with (
        two_agents(vnet(), PORT_RESTRICTED, PORT_RESTRICTED, streams=layout) as lab,
        trio.open_nursery() as nursery,
    ):
        alice, bob = lab.agents
        nursery.start_soon(carry, alice, bob)
        nursery.start_soon(carry, bob, alice)
        with trio.fail_after(20):
            await alice.wait_connected()
            await bob.wait_connected()
        for one in (alice, bob):
            before = [agent.credentials for agent in lab.agents]
            one.restart()
            with trio.fail_after(20):
                while alice.is_restarting or bob.is_restarting:
                    await trio.sleep(0.05)
            assert not set(before) & {agent.credentials for agent in lab.agents}
        await alice.send(b"after both restarts")
        assert await bob.receive() == b"after both restarts"
        nursery.cancel_scope.cancel()


async def test_a_whole_description_is_enough_and_does_no_harm_twice(vnet: Any) -> None:
    """One message each way, through a person's clipboard, say; and pasted twice."""
    async with two_agents(vnet(), None, None) as lab:
        alice, bob = lab.agents
        await alice.wait_gathered()
        await bob.wait_gathered()
        first, other = alice.description(), bob.description()
        for _ in range(2):
            bob.accept(first)
            alice.accept(other)
        with trio.fail_after(10):
            await alice.wait_connected()
            await bob.wait_connected()
        ours = alice.credentials
        bob.accept(first)
        assert alice.credentials == ours


async def test_a_part_overtaken_by_a_restart_changes_nothing(vnet: Any) -> None:
    """A signaling channel that keeps no order must not end a session."""
    async with two_agents(vnet(), None, None) as lab:
        alice, bob = lab.agents
        await alice.wait_gathered()
        old = alice.description()
        bob.accept(old)
        alice.accept(bob.description())
        with trio.fail_after(10):
            await bob.wait_connected()
        alice.restart()
        fresh = alice.description()
        bob.accept(fresh)
        known = bob._driver.ice.remote_candidates
        bob.accept(old)
        assert bob._driver.ice.remote_credentials == fresh.streams[0].credentials
        assert bob._driver.ice.remote_candidates == known


async def test_what_cannot_be_accepted_says_so_at_once(vnet: Any) -> None:
    """A text is not read by guessing which form it has; other streams than ours cannot be served."""
    async with two_agents(vnet(), None, None) as lab:
        alice, bob = lab.agents
        with pytest.raises(LocalError, match="from_json or from_sdp"):
            alice.accept(bob.description().to_json())  # type: ignore[arg-type]
        with pytest.raises(RemoteError, match="describes 2 data streams, this agent has 1"):
            alice.accept(Description((FIRST, SECOND)))
        assert alice.state is AgentState.NEW
