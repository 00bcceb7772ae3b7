"""Where two sides meet again, at real relays: one of several that is gone, a place that nobody comes to."""

from __future__ import annotations

import secrets
from typing import Any

import icesignal
import pytest
import trio
from coturn import free_port
from icesignal.keeper import Keeper
from relay_client import sealed_pair

import iceagent
from iceagent.net.tasks import open_background
from iceagent.session import reunion as reunions
from iceagent.session.reunion import Reunion


def sides(*urls: str) -> tuple[Reunion, Reunion]:
    """Return what both sides have, of one key."""
    name, key = secrets.token_bytes(32), secrets.token_bytes(32)
    one, other = (Reunion(urls, None, icesignal.Rendezvous(role, name, key)) for role in ("inviter", "joiner"))
    return one, other


async def keep_meeting(side: Reunion, met: trio.Event) -> None:
    """Try until both are there."""
    while True:
        try:
            async with side.open() as channel:
                await channel.send({"here": True})
                await channel.receive()
                met.set()
                await trio.sleep_forever()
        except icesignal.SignalError:
            await trio.sleep(0.05)


async def meet(*, both: tuple[Reunion, Reunion]) -> None:
    events = trio.Event(), trio.Event()
    async with open_background() as nursery:
        for side, met in zip(both, events, strict=True):
            nursery.start_soon(keep_meeting, side, met)
        with trio.fail_after(30):
            for met in events:
                await met.wait()


async def test_the_two_meet_at_another_relay_where_the_one_they_had_is_gone() -> None:
    async with icesignal.serve() as relay:
        await meet(both=sides(f"ws://127.0.0.1:{free_port()}", relay.url))


async def test_who_waits_alone_at_one_of_several_relays_goes_on_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two have come to know of the loss at different times, and begun at different ones."""
    monkeypatch.setattr(reunions, "STAY_S", 1.0)
    async with icesignal.serve() as first, icesignal.serve() as second:
        one, other = sides(first.url, second.url)
        other._urls.reverse()
        await meet(both=(one, other))


async def test_both_sides_know_all_the_relays_that_were_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also who joins by a code, which names the one where it was made."""
    seen: list[tuple[list[str], object]] = []
    init = Reunion.__init__

    def note(self: Reunion, urls: list[str], config: object, rendezvous: object, *more: Any, **options: bool) -> None:
        seen.append((list(urls), more))
        init(self, urls, config, rendezvous, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Reunion, "__init__", note)
    dead = f"ws://127.0.0.1:{free_port()}"
    async with icesignal.serve() as relay:
        named = [dead, relay.url]
        async with iceagent.invite(relay=named) as invitation, open_background() as nursery:

            async def accept(task_status: trio.TaskStatus[None]) -> None:
                task_status.started()
                async with invitation.accept():
                    await trio.sleep_forever()

            await nursery.start(accept)
            async with iceagent.join(invitation.code, relay=named):
                pass
    assert len(seen) == 2
    for urls, more in seen:
        assert [icesignal.parse_relay_url(url).port for url in urls] == [relay.port, int(dead.rpartition(":")[2])]
        assert more in ((), (None,)), "the relay is nobody's own"


async def test_a_side_is_alone_without_its_peer_without_the_relay_and_at_the_end() -> None:
    async with icesignal.serve() as relay, sealed_pair(relay.url) as (inviter, joiner):
        assert not inviter.is_alone
        keeper = joiner._client._keeper
        assert keeper.connection is not None
        async with open_background() as nursery:
            nursery.start_soon(lose_for_good, keeper)
            with trio.fail_after(5):
                await inviter.wait_alone(0.2)
        assert joiner.is_alone
        joiner.close()
        inviter.close()
        with trio.fail_after(5):
            await inviter.wait_alone(1000)


async def lose_for_good(keeper: Keeper) -> None:
    """After a while, a connection to the relay is gone, and none comes back."""
    await trio.sleep(0.5)
    keeper.pause = lambda seconds: trio.sleep_forever()  # type: ignore[method-assign]
    assert keeper.connection is not None
    keeper.connection.give_up("its network is gone")
