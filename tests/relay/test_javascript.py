"""A client in JavaScript (`js/`), written from docs/relay-protocol.md, against ours and the real relay.

It uses what browsers have alone, so that it can be used there: Node.js lends it a `WebSocket`. `make js` installs what
it imports; where that or Node.js is missing these tests are skipped.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import icesignal
import msgpack
import pytest
import trio
from icesignal import MemberKey, RoomKey, RoomMessage
from icesignal.server import Server, serve
from memory_relay import play_relay
from relay_client import Restartable

ROOT = Path(__file__).resolve().parents[2]
JS = Path(__file__).parent / "js"
NODE = shutil.which("node")


def why_not() -> str:
    """Return why there is no JavaScript here; nothing if there is."""
    if NODE is None:
        return "Node.js is not installed"
    version = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor, _ = (int(part) for part in re.findall(r"\d+", version)[:3])
    if (major, minor) < (20, 10):
        return f"Node.js {version.strip()} has no WebSocket; it takes 20.10"
    if not (JS / "node_modules").is_dir():
        return "what the client imports is not installed; `make js` does so"
    return ""


WHY_NOT = why_not()
pytestmark = [pytest.mark.processes, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]


class Program:
    """A running `peer.js`: lines of JSON in and out."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._lines: list[dict[str, Any]] = []
        self._rest = b""
        self._unseen: list[dict[str, Any]] = []
        self.heard: list[dict[str, Any]] = []

    async def hear(self) -> dict[str, Any]:
        """Return the next line."""
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            data = await self._process.stdout.receive_some(65536)
            assert data, "it has ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        self.heard.append(found)
        return found

    async def hear_until(self, **fields: object) -> dict[str, Any]:
        """Return the first line that has these fields and was not returned before."""
        with trio.fail_after(60):
            while True:
                for line in self._unseen:
                    if all(line.get(name) == value for name, value in fields.items()):
                        self._unseen.remove(line)
                        return line
                self._unseen.append(await self.hear())

    async def say(self, **command: object) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(command).encode() + b"\n")


@asynccontextmanager
async def program(*args: str) -> AsyncIterator[Program]:
    """Run `peer.js` until the block ends."""
    assert NODE is not None
    command = [NODE, "--experimental-websocket", "--no-warnings", str(JS / "peer.js"), *args]
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(run, command)
        try:
            yield Program(process)
        finally:
            nursery.cancel_scope.cancel()


async def run(command: list[str], task_status: trio.TaskStatus[trio.Process]) -> None:
    await trio.run_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        check=False,
        task_status=task_status,
        deliver_cancel=kill,
    )


async def kill(process: trio.Process) -> None:
    process.kill()


async def test_the_vector_of_the_document() -> None:
    """Both clients make of it what the page says."""
    page = (ROOT / "docs" / "relay-protocol.md").read_text(encoding="utf-8")
    async with program("vector") as javascript:
        found = await javascript.hear()
    assert found["k"] == found["k2"]
    for name in ("a", "b", "k", "transcript", "confirmation", "sealed"):
        assert f"= {found[name]}\n" in page


async def exchange(channel: icesignal.SealedChannel, javascript: Program, *, cut: bool) -> None:
    """Say this and that, hear all of it back; both sides have the same keys."""
    opened = await javascript.hear_until(open=True)
    assert opened["key"] == channel.key("test").hex()
    said: list[dict[str, Any]] = [
        {"n": number, "data": bytes(number % 7), "big": 2**50 + number} for number in range(150)
    ]
    if cut:
        said[70]["cut"] = True

    async def say() -> None:
        for one in said:
            await channel.send(one)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say)
        with trio.fail_after(60):
            for one in said:
                assert await channel.receive() == {"echo": one}


@pytest.mark.parametrize("cut", [False, True])
async def test_it_invites_and_we_join(relay: Server, cut: bool) -> None:
    """And the conversation survives its connection."""
    async with program("invite", relay.url, "guitar-ozone") as javascript:
        code = (await javascript.hear())["code"]
        async with icesignal.open_join(relay.url, code) as channel:
            await exchange(channel, javascript, cut=cut)
            channel.close()
            await javascript.hear_until(over="done")


@pytest.mark.parametrize("cut", [False, True])
async def test_we_invite_and_it_joins(relay: Server, cut: bool) -> None:
    """With all types of msgpack that a map may hold."""
    async with (
        icesignal.open_invitation(relay.url) as invitation,
        program("join", relay.url, invitation.code) as javascript,
    ):
        channel = await invitation.wait_peer()
        hello = await channel.receive()
        assert hello == {"hello": b"from javascript", "number": 2**40, "list": [1, "two", None, True, -5]}
        await exchange(channel, javascript, cut=cut)


@pytest.mark.parametrize("is_full", [False, True])
async def test_it_works_for_its_place(*, is_full: bool) -> None:
    """While there is guessing, and where a relay has hardly any place: what our client does it does, too."""
    limits = icesignal.Limits(work_tries=512, work_from_load=0.0 if is_full else 2.0, dear_tries=0)
    async with serve(limits=limits) as relay, program("invite", relay.url, "guitar-ozone") as javascript:
        code = (await javascript.hear_until())["code"]
        if not is_full:
            async with icesignal.open_client(relay.url) as client:
                for number in range(9):
                    with pytest.raises(icesignal.CodeUnknown):
                        await client.join(str(900_000_000 + number))
        async with program("join", relay.url, code) as joiner:
            await joiner.hear_until(open=True)
            await javascript.hear_until(open=True)
        assert relay.counters["work_done"] == (2 if is_full else 1)
        assert relay.counters["work_wrong"] == 0


async def test_a_wrong_code_is_wrong_on_both_sides(relay: Server) -> None:
    """Whoever has the wrong words: both are told, and the code is dead."""
    async with (
        icesignal.open_invitation(relay.url) as invitation,
        program("join", relay.url, f"{invitation.nameplate}-zebra-zebra") as javascript,
    ):
        with pytest.raises(icesignal.CodeWrong):
            await invitation.wait_peer()
        assert await javascript.hear() == {"error": "code-wrong"}
    async with program("invite", relay.url, "guitar-ozone") as javascript:
        nameplate = (await javascript.hear())["code"].partition("-")[0]
        with pytest.raises(icesignal.CodeWrong):
            async with icesignal.open_join(relay.url, f"{nameplate}-zebra-zebra"):
                pass
        assert await javascript.hear() == {"error": "code-wrong"}


class Listener:
    """One of our own members."""

    def __init__(self, owner: RoomKey, *, can: tuple[str, ...] = ()) -> None:
        self.key = MemberKey.generate()
        self.ticket = owner.ticket(self.key.public, can=can)
        self.texts: list[bytes] = []

    async def listen(self, room: icesignal.Room) -> None:
        async for event in room:
            if isinstance(event, RoomMessage):
                self.texts.append(event.payload)

    async def wait(self, room: icesignal.Room, is_so: Callable[[], bool]) -> None:
        with trio.fail_after(60):
            while not is_so():
                await room.wait_change()


def inviting(relay: Server, owner: RoomKey, room: icesignal.Room) -> Callable[[icesignal.Invitation], Awaitable[None]]:
    """Return what lets in whoever uses an invitation."""

    async def vouch(key: bytes) -> bytes:
        return owner.ticket(key, can=["remove"])

    async def invite(invitation: icesignal.Invitation) -> None:
        channel = await invitation.wait_peer()
        await icesignal.admit(channel, vouch, relays=[relay.url], removals=room.removals)

    return invite


async def test_two_of_each_in_a_room_of_many(relay: Server) -> None:
    """They come by code, hear each other, also after a connection was lost; who is removed is out, by whomever."""
    owner = RoomKey.generate()
    ours = [Listener(owner, can=("remove",)), Listener(owner)]
    async with (
        icesignal.open_room(relay.url, ours[0].ticket, ours[0].key) as first,
        icesignal.open_room(relay.url, ours[1].ticket, ours[1].key) as second,
        trio.open_nursery() as nursery,
        icesignal.open_invitation(relay.url) as one,
        icesignal.open_invitation(relay.url) as other,
    ):
        nursery.start_soon(ours[0].listen, first)
        nursery.start_soon(ours[1].listen, second)
        for invitation in (one, other):
            nursery.start_soon(inviting(relay, owner, first), invitation)
        async with program("enter", relay.url, one.code) as js, program("enter", relay.url, other.code) as js2:
            names = [(await each.hear_until())["id"] for each in (js, js2)]
            for listener, room in zip(ours, (first, second), strict=True):
                await listener.wait(room, lambda room=room: len(room.members) == 3)  # type: ignore[misc]
            for each in (js, js2):
                for _ in range(3):
                    await each.hear_until(type="came")
            # To all, from each kind to each kind.
            await first.send(b"from python")
            await js.say(send="from javascript")
            for each in (js, js2):
                heard = await each.hear_until(type="message", payload="from python")
                assert (heard["sender"], heard["toAll"]) == (first.id.hex(), True)
            await js2.hear_until(type="message", payload="from javascript")
            for listener, room in zip(ours, (first, second), strict=True):
                await listener.wait(room, lambda listener=listener: b"from javascript" in listener.texts)  # type: ignore[misc]
            # To one.
            await js.say(send="for one", to=[second.id.hex()])
            await second.send(b"for you", to=[bytes.fromhex(names[0])])
            assert not (await js.hear_until(type="message", payload="for you"))["toAll"]
            await ours[1].wait(second, lambda: b"for one" in ours[1].texts)
            assert b"for one" not in ours[0].texts
            # Through a connection that was lost.
            await js.say(cut=True)
            for number in range(20):
                await first.send(b"%d" % number)
                await js2.say(send=f"js {number}")
            for number in range(20):
                await js.hear_until(type="message", payload=str(number))
            await ours[1].wait(second, lambda: b"js 19" in ours[1].texts)
            assert not [line for line in js.heard if line.get("type") == "missed"]
            # Removal, of one of theirs by one of theirs, and of one of ours by one of ours.
            await js.say(remove=names[1])
            await js2.hear_until(over="removed")
            await ours[1].wait(second, lambda: len(second.members) == 2)
            await first.remove(second.id)
            await js.hear_until(type="removed", member=second.id.hex())
            await js.say(send="between us")
            await ours[0].wait(first, lambda: b"between us" in ours[0].texts)
            assert b"between us" not in ours[1].texts
        nursery.cancel_scope.cancel()


async def test_it_enters_anew_where_the_relay_was_started_anew() -> None:
    """As we do: nobody but the relay has forgotten anything."""
    owner, ours, theirs = RoomKey.generate(), Listener(RoomKey.generate()), MemberKey.generate()
    ours.ticket = owner.ticket(ours.key.public)
    async with trio.open_nursery() as nursery:
        relay = Restartable(nursery)
        await relay.start()
        ticket = owner.ticket(theirs.public).hex()
        async with (
            icesignal.open_room(relay.url, ours.ticket, ours.key) as room,
            program("room", relay.url, ticket, theirs.private_bytes().hex()) as javascript,
        ):
            nursery.start_soon(ours.listen, room)
            await javascript.hear_until(type="came")
            await ours.wait(room, lambda: len(room.members) == 1)
            await relay.stop()
            await relay.start()
            await javascript.hear_until(type="missed", sender=None)
            await javascript.hear_until(type="came")
            await ours.wait(room, lambda: len(room.members) == 1)
            await room.send(b"again")
            await javascript.hear_until(type="message", payload="again")
            await javascript.say(send="here, too")
            await ours.wait(room, lambda: ours.texts == [b"here, too"])
        await relay.stop()
        nursery.cancel_scope.cancel()


async def test_it_lets_us_into_a_room_of_its_own(relay: Server) -> None:
    """Its tickets are good with the relay, and with us."""
    owner, mine = RoomKey.generate(), MemberKey.generate()
    async with program("admit", relay.url, "guitar-ozone", owner.private_bytes().hex()) as javascript:
        code = (await javascript.hear())["code"]
        admission = await icesignal.accept_invitation(relay.url, code, mine)
        await javascript.hear_until(over="done")
    assert admission.room == owner.public
    async with icesignal.open_room(list(admission.relays), admission.ticket, mine) as room:
        assert room.members == []


async def test_what_a_relay_says_that_is_no_frame_ends_nothing() -> None:
    """Neither bytes nor maps nor text that is none; what it says of its versions is looked at, whatever it is."""
    owner, mine = RoomKey.generate(), MemberKey.generate()
    bad: list[dict[str, Any]] = [
        {"type": "message", "epoch": "1", "seq": None, "payload": 7, "sender": "x"},
        {"type": "message", "epoch": 9, "seq": 9, "payload": "text", "sender": bytes(16)},
        {"type": "entered", "epoch": {}, "members": "all"},
        {"type": "member", "member": 1, "ticket": [], "opening": {}},
        {"type": "ack", "client_seq": "all"},
        {"type": "welcome"},
    ]
    said = [b"\xc1", b"", b"\x93", *(bytes(msgpack.packb({"v": 1, **one}) or b"") for one in bad)]
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, partial(play_relay, said), 0, host="127.0.0.1"))
        url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with program("room", url, owner.ticket(mine.public).hex(), mine.private_bytes().hex()) as javascript:
            await javascript.hear_until(over="version")
        nursery.cancel_scope.cancel()
