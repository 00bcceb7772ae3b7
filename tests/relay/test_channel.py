"""From a code to a sealed channel, over a real relay on loopback."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import icesignal
import pytest
import trio
import trio.testing
from icesignal import transport, wire
from icesignal.channel import MAX_BODY_BYTES, UNSAID
from icesignal.code import Code
from icesignal.pake import Pake
from icesignal.server import Server
from relay_client import sealed_pair

EVER_S = 1e6


async def test_a_code_leads_to_a_sealed_channel(relay: Server) -> None:
    """Maps both ways, the same keys on both sides, the relay's servers with its own host filled in."""
    async with sealed_pair(relay.url) as (inviter, joiner):
        await inviter.send({"candidate": "x", "n": 1, "raw": b"\0"})
        await joiner.send({"answer": [1, 2, None]})
        assert await joiner.receive() == {"candidate": "x", "n": 1, "raw": b"\0"}
        assert await inviter.receive() == {"answer": [1, 2, None]}
        assert (inviter.role, joiner.role) == ("inviter", "joiner")
        assert inviter.key("link") == joiner.key("link") != inviter.key("other")
        assert inviter.ice_servers == joiner.ice_servers == [{"urls": ["stun:127.0.0.1:3478"]}]


async def test_the_code_may_carry_the_relay(relay: Server) -> None:
    """With an embedded relay the joiner knows nothing but the code, however it is spelled."""
    address = f"127.0.0.1:{relay.port}"
    async with icesignal.open_invitation(relay.url, address=address) as invitation, trio.open_nursery() as nursery:
        nursery.start_soon(invitation.wait_peer)
        async with icesignal.open_join(None, invitation.code.upper().replace("-", " ")) as joined:
            assert joined.role == "joiner"


async def test_a_code_without_relay_needs_one() -> None:
    """A sentence, not a stack trace."""
    with pytest.raises(icesignal.CodeMalformed, match="at which relay"):
        async with icesignal.open_join(None, "7-guitar-ozone"):
            pass


async def test_wrong_words_end_both_sides_and_the_code(relay: Server) -> None:
    """The inviter learns that somebody guessed, the joiner that he guessed wrong, and neither can go on."""
    async with icesignal.open_invitation(relay.url) as invitation:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(icesignal.CodeWrong, match="dead"):
                    await invitation.wait_peer()

            nursery.start_soon(wait)
            with pytest.raises(icesignal.CodeWrong, match="wrong"):
                async with icesignal.open_join(relay.url, f"{invitation.nameplate}-guitar-guitar"):
                    pass
        with pytest.raises(icesignal.CodeExpired):
            async with icesignal.open_join(relay.url, invitation.code):
                pass


async def test_a_misspelt_word_costs_nobody_the_code(relay: Server) -> None:
    """Checked before a byte is sent: the code still works for who writes it right, however it was given."""
    async with icesignal.open_invitation(relay.url) as invitation, trio.open_nursery() as nursery:
        nursery.start_soon(invitation.wait_peer)
        for code in (f"{invitation.nameplate}-gitar-ozone", Code(invitation.nameplate, ("gitar", "ozone"))):
            with pytest.raises(icesignal.CodeMalformed, match="did you mean 'guitar'"):
                async with icesignal.open_join(relay.url, code):
                    pass
        async with icesignal.open_join(relay.url, invitation.code) as joined:
            assert not joined.is_over


async def test_a_guesser_that_just_leaves_kills_the_code_too(relay: Server) -> None:
    """Otherwise it could look at the inviter's proof and come back with another guess."""
    async with icesignal.open_invitation(relay.url) as invitation, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(icesignal.CodeWrong, match="without showing"):
                await invitation.wait_peer()

        nursery.start_soon(wait)
        async with icesignal.open_client(relay.url) as client:
            await client.join(invitation.nameplate, Pake("joiner", "some-guess").message)


async def test_an_inviter_that_sends_garbage_is_a_wrong_code(relay: Server) -> None:
    """A PAKE message that is no element must not look like a crash."""
    async with icesignal.open_client(relay.url) as client:
        nameplate = await client.allocate(b"\xff" * 33)
        with pytest.raises(icesignal.CodeWrong):
            async with icesignal.open_join(relay.url, f"{nameplate}-guitar-ozone"):
                pass


async def test_a_silent_partner_is_not_waited_for_for_ever(
    relay: Server, autojump_clock: trio.testing.MockClock
) -> None:
    """Somebody who takes a place and says nothing must not hold the other side."""
    async with icesignal.open_client(relay.url) as client:
        nameplate = await client.allocate(Pake("inviter", "guitar-ozone").message)
        with pytest.raises(icesignal.PeerLeft, match="prove"):
            async with icesignal.open_join(relay.url, f"{nameplate}-guitar-ozone"):
                pass


async def test_an_invitation_is_good_for_one_peer(relay: Server) -> None:
    """Waiting twice would be a second guess."""
    async with icesignal.open_invitation(relay.url) as invitation:
        with trio.move_on_after(0.01):
            await invitation.wait_peer()
        with pytest.raises(RuntimeError, match="one peer"):
            await invitation.wait_peer()


async def test_leaving_is_heard_by_the_other_side_after_what_was_said(relay: Server) -> None:
    """What was sent before comes first."""
    async with icesignal.open_invitation(relay.url) as invitation, trio.open_nursery() as nursery:

        async def stay() -> None:
            channel = await invitation.wait_peer()
            assert await channel.receive() == {"last": "words"}
            with pytest.raises(icesignal.PeerLeft):
                await channel.receive()
            with pytest.raises(icesignal.PeerLeft):
                await channel.send({"anybody": "there"})

        nursery.start_soon(stay)
        async with icesignal.open_join(relay.url, invitation.code) as joined:
            await joined.send({"last": "words"})


@pytest.mark.parametrize("is_opened", [False, True])
async def test_who_sends_to_a_peer_that_has_left_hears_its_last_words_first(relay: Server, is_opened: bool) -> None:
    """They may say why: somebody who was refused took it for a peer that went away, and waited for another."""
    async with sealed_pair(relay.url) as (inviter, joiner):
        await inviter.send({"refusal": "you are not who you were"})
        inviter.close()
        if is_opened:
            await trio.sleep(0.2)
        else:  # it has arrived, and nobody has looked at it yet
            while joiner._client.over is None:
                await trio.lowlevel.checkpoint()
        await joiner.send({"hello": "there"})
        assert "refusal" in await joiner.receive()
        with pytest.raises(icesignal.PeerLeft):
            await joiner.send({"hello": "there"})
        with pytest.raises(icesignal.PeerLeft):
            await joiner.receive()


async def test_who_never_listens_is_told_in_the_end_that_nobody_hears_it(relay: Server) -> None:
    async with sealed_pair(relay.url) as (inviter, joiner):
        await inviter.send({"last": "words"})
        inviter.close()
        await trio.sleep(0.2)
        for _ in range(UNSAID):
            await joiner.send({"hello": "there"})
        with pytest.raises(icesignal.PeerLeft):
            await joiner.send({"hello": "there"})
        assert await joiner.receive() == {"last": "words"}


async def test_a_channel_that_is_kept_beyond_its_block_is_over(relay: Server) -> None:
    async with sealed_pair(relay.url) as (_, joiner):
        pass
    with trio.fail_after(1):
        with pytest.raises(icesignal.SignalError):
            await joiner.send({"hello": "there"})
        with pytest.raises(icesignal.SignalError):
            await joiner.receive()


async def test_the_block_s_own_error_leaves_unwrapped(relay: Server) -> None:
    """A user catches his own exception, not a group of it."""
    with pytest.raises(ZeroDivisionError):
        async with connected_forever(relay.url):
            raise ZeroDivisionError


@asynccontextmanager
async def connected_forever(url: str) -> AsyncIterator[None]:
    async with icesignal.open_client(url), icesignal.open_invitation(url):
        yield


async def test_nothing_is_left_after_the_block(relay: Server) -> None:
    """No room, no session, no connection, no task."""
    before = trio.lowlevel.current_statistics().tasks_living
    async with sealed_pair(relay.url):
        assert relay.statistics()["engine_rooms"] == 1
    while trio.lowlevel.current_statistics().tasks_living != before:  # the relay's side ends a moment later
        await trio.sleep(0.001)
    statistics = relay.statistics()
    assert (statistics["engine_rooms"], statistics["engine_sessions"], statistics["engine_log_bytes"]) == (0, 0, 0)
    assert statistics.get("internal_errors", 0) == 0
    assert statistics["connections_open"] == 0


async def test_only_what_msgpack_can_say_may_be_sent(relay: Server) -> None:
    """The caller's mistake is told to the caller, and the channel lives on."""
    async with sealed_pair(relay.url) as (inviter, joiner):
        with pytest.raises(ValueError, match="msgpack"):
            await inviter.send({"what": object()})
        with pytest.raises(ValueError, match="at most"):
            await inviter.send({"blob": bytes(wire.MAX_PAYLOAD_BYTES)})
        largest = {"b": bytes(MAX_BODY_BYTES - 6)}
        await inviter.send(largest)
        assert await joiner.receive() == largest


async def test_peers_meet_again_without_a_code(relay: Server) -> None:
    """After sleep: the name and key of the earlier session suffice, and the new keys are new."""
    async with sealed_pair(relay.url) as (inviter, joiner):
        kept, old_key = (inviter.rendezvous, joiner.rendezvous), inviter.key("link")
    keys = []
    async with trio.open_nursery() as nursery:

        async def meet(rendezvous: icesignal.Rendezvous) -> None:
            async with icesignal.open_rendezvous(relay.url, rendezvous) as channel:
                keys.append(channel.key("link"))
                await channel.send({"from": channel.role})
                assert (await channel.receive())["from"] != channel.role
                await trio.sleep(0.05)

        for rendezvous in kept:
            nursery.start_soon(meet, rendezvous)
    assert keys[0] == keys[1] != old_key
    assert kept[0].key.hex() not in repr(kept[0])


async def test_a_stranger_at_the_rendezvous_is_told_apart(relay: Server) -> None:
    """The relay knows the name, but not the key."""
    async with sealed_pair(relay.url) as (inviter, joiner):
        kept, theirs = inviter.rendezvous, joiner.rendezvous
    stranger = icesignal.Rendezvous(theirs.role, theirs.name, bytes(32))
    async with trio.open_nursery() as nursery:

        async def meet(rendezvous: icesignal.Rendezvous) -> None:
            with pytest.raises(icesignal.CodeWrong):
                async with icesignal.open_rendezvous(relay.url, rendezvous):
                    pass

        nursery.start_soon(meet, kept)
        nursery.start_soon(meet, stranger)


async def test_whoever_is_gone_before_it_proved_itself_is_said_to_be(
    relay: Server, autojump_clock: trio.testing.MockClock
) -> None:
    """Its room outlives it for two minutes, and its code leads to nobody. Alive it may come back: codes are dear."""
    async with icesignal.open_client(relay.url) as client, icesignal.open_invitation(client) as invitation:
        client._keeper.pause = lambda seconds: trio.sleep_forever()  # type: ignore[method-assign]
        assert client._keeper.connection is not None
        client._keeper.connection.abort(wire.CloseCode.GOING_AWAY)
        with pytest.raises(icesignal.PeerLeft, match=r"is gone: its connection to the relay has ended.*use a new code"):
            async with icesignal.open_join(relay.url, invitation.code):
                pass


def stays_away(channel: icesignal.SealedChannel, cut: Callable[[transport.WebsocketConnection], None]) -> None:
    """End a channel's connection as `cut` does; its client is there and does not dial again."""
    client = channel._client
    client._keeper.pause = lambda seconds: trio.sleep_forever()  # type: ignore[method-assign]
    assert client._keeper.connection is not None
    cut(client._keeper.connection)


def reset(connection: transport.WebsocketConnection) -> None:
    """End a connection as a system does with unread data, or a gateway that has forgotten it."""
    stream = connection._stream._stream
    assert isinstance(stream, trio.SocketStream)
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


def finish(connection: transport.WebsocketConnection) -> None:
    """End a connection as a system does for a program that is killed."""
    stream = connection._stream._stream
    assert isinstance(stream, trio.SocketStream)
    stream.socket.shutdown(socket.SHUT_WR)


def say_goodbye(connection: transport.WebsocketConnection) -> None:
    """End a connection as a client does that will be back."""
    connection.abort(wire.CloseCode.GOING_AWAY)


async def test_a_peer_that_comes_back_in_time_is_not_gone(relay: Server) -> None:
    """A gateway that is started again cuts connections; whoever lives has another within seconds."""
    async with sealed_pair(relay.url) as (inviter, joiner), trio.open_nursery() as nursery:
        nursery.start_soon(inviter.wait_peer_gone, EVER_S)
        for _ in range(3):
            assert joiner._client._keeper.connection is not None
            reset(joiner._client._keeper.connection)
            while not inviter.has_peer_hung_up:
                await inviter._client.wait_change()
            while inviter.is_peer_away:
                await inviter._client.wait_change()
            assert not inviter.has_peer_hung_up
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("cut", [finish, reset])
async def test_a_peer_whose_system_hangs_up_is_gone(
    relay: Server, cut: Callable[[transport.WebsocketConnection], None]
) -> None:
    """So it does for a program that is killed, which says nothing itself."""
    async with sealed_pair(relay.url) as (inviter, joiner):
        stays_away(joiner, cut)
        await inviter.wait_peer_gone(0.2)
        assert inviter.is_peer_away
        inviter.close()
        with pytest.raises(icesignal.SignalError):
            await inviter.wait_peer_gone(0)


async def test_a_peer_that_says_goodbye_is_not_gone(relay: Server) -> None:
    """Its program lives, and comes back when it can; the relay says when it has not."""
    async with sealed_pair(relay.url) as (inviter, joiner), trio.open_nursery() as nursery:
        nursery.start_soon(must_not_end, inviter)
        stays_away(joiner, say_goodbye)
        while not inviter.is_peer_away:
            await inviter._client.wait_change()
        await trio.testing.wait_all_tasks_blocked()
        assert not inviter.has_peer_hung_up
        nursery.cancel_scope.cancel()


async def must_not_end(channel: icesignal.SealedChannel) -> None:
    """Fail if the peer is taken for gone, at once."""
    await channel.wait_peer_gone(0)
    raise AssertionError("the peer lives")
