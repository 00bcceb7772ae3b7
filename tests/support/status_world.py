"""Real relays with a status page, what happens at them, and a browser that looks.

python tests/support/status_world.py FILE.png     the picture of docs/operate.md, after a minute of traffic
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import icesignal
import trio
from chromium import Page, open_chromium
from icesignal import wire
from processes import Process, Processes, processes
from relay_client import connect_raw, sealed_pair
from turn_wire import echoing_peer, udp_client

from iceagent.core import stun
from iceagent.core.address import parse_address

TOKEN = "correct-horse-battery-staple"
RELAY = (sys.executable, "-c", "from icesignal.main import main; main()")
SERVE = (sys.executable, "-m", "iceagent", "serve")
TURN = ("--turn", "--turn-listen", "127.0.0.1:0", "--insecure-dev")
# All of them come from one address.
MANY = """
[limits]
max_connections_per_source = 1000
connections = { burst = 10000, per_s = 1000 }
joins = { burst = 10000, per_s = 1000 }
claims = { burst = 10000, per_s = 1000 }
messages = { burst = 100000, per_s = 10000 }
bytes = { burst = 100000000, per_s = 10000000 }
[rooms]
rooms_per_source = 10000
resume_s = 5
"""
PEOPLE = 0.6  # seconds between two pairs that come, on average
MINUTE_S = 70.0


def start(run: Processes, command: tuple[str, ...], folder: Path, *more: str, admin: str = "127.0.0.1:0") -> Process:
    """Start a relay whose page takes `TOKEN`; its line `listening` says where."""
    file = folder / "token"
    file.write_text(f"{TOKEN}\n", encoding="utf-8")
    file.chmod(0o600)
    options = ("--json", "--listen", "127.0.0.1:0", "--admin-listen", admin, "--status-token-file", str(file))
    return run.start(*command, *options, *more)


async def enter(page: Page, admin: str, token: str = TOKEN) -> None:
    """Open the page as somebody does who has the token."""
    await page.go(f"{admin}/status")
    await give(page, token)
    await page.wait("!document.getElementById('numbers').hidden")


async def give(page: Page, token: str) -> None:
    """Type a token, and press the button."""
    await page.wait("document.activeElement?.id === 'token'")
    await page.call("Input.insertText", text=token)
    await page.js("document.querySelector('#door button').click()")


async def report(url: str, session: int, outcome: Literal["direct", "relayed", "failed"], why: str = "") -> None:
    """Be a member that tells how its connection turned out, and goes."""
    async with connect_raw(url) as member:
        await member.ask(wire.Allocate(session=session.to_bytes(16, "big")))
        member.say(wire.Outcome(outcome=outcome, why=why, ms=700))
        await member.ask(wire.AskServers())  # answered when the report has been counted


@asynccontextmanager
async def relayed(line: dict[str, Any], datagrams: int, size: int = 1000) -> AsyncIterator[None]:
    """Have an allocation at the TURN server of a line `listening`, and so much sent through it and back."""
    async with icesignal.open_client(line["url"]) as member:
        await member.allocate()
        offered = next(one for one in member.ice_servers if "credential" in one)
    server = parse_address(line["turn"].removeprefix("turn:").partition("?")[0])
    async with echoing_peer() as peer, udp_client(server) as (client, _):
        client.maker.username, client.maker.password = offered["username"], offered["credential"]
        client.maker.realm = line["realm"]
        await client.allocate()
        await client.permit(peer)
        for _ in range(datagrams):
            attributes = stun.XorPeerAddress(peer), stun.Data(bytes(size))
            message = stun.Message(stun.MessageClass.INDICATION, stun.Method.SEND, random.randbytes(12), attributes)
            await client.send(stun.encode(message))
            await client.receive()
        yield


async def pair(url: str, life_s: float) -> None:
    """Two who meet, talk for a while and go."""
    with trio.move_on_after(life_s):
        async with sealed_pair(url) as (one, other):
            while True:
                await one.send({"hello": random.randbytes(200)})
                await other.receive()
                await trio.sleep(random.expovariate(4))


async def people(line: dict[str, Any], nursery: trio.Nursery) -> None:
    """Have pairs come and go, report, and use the TURN server."""
    outcomes: list[tuple[Literal["direct", "relayed", "failed"], str]] = [
        ("direct", ""),
        ("relayed", "both-map-per-destination"),
        ("relayed", "udp-blocked"),
        ("failed", "no-path"),
    ]
    for number in range(1_000_000):
        nursery.start_soon(pair, line["url"], random.uniform(5, 40))
        if random.random() < 0.8:
            nursery.start_soon(partial(report, line["url"], number), *random.choices(outcomes, [15, 3, 1, 1])[0])
        if random.random() < 0.25:
            nursery.start_soon(use_turn, line, random.randrange(20, 200), random.uniform(5, 25))
        if random.random() < 0.3:
            nursery.start_soon(guess, line["url"])
        await trio.sleep(random.expovariate(1 / PEOPLE))


async def use_turn(line: dict[str, Any], datagrams: int, life_s: float) -> None:
    with trio.move_on_after(life_s):
        async with relayed(line, datagrams):
            await trio.sleep_forever()


async def guess(url: str) -> None:
    """Ask for a room that there is none of."""
    async with connect_raw(url) as stranger:
        await stranger.ask(wire.Join(session=random.randbytes(16), nameplate=str(random.randrange(10**6, 10**7))))


async def take_picture(path: Path) -> None:
    """Write what the page looks like after a minute of traffic."""
    with tempfile.TemporaryDirectory() as folder, processes() as run:
        config = Path(folder) / "serve.toml"
        config.write_text(MANY, encoding="utf-8")
        line = start(run, SERVE, Path(folder), *TURN, "--config", str(config)).wait_for("listening")
        async with open_chromium() as browser, trio.open_nursery() as nursery:
            page = await browser.page()
            await page.show(1000, 800)
            await enter(page, line["admin"])
            nursery.start_soon(people, line, nursery)
            await trio.sleep(MINUTE_S)
            await page.js("document.getElementById('node').textContent = 'of relay-1, this one process'")
            await page.screenshot(path, whole=True)
            nursery.cancel_scope.cancel()
        print(json.dumps({"picture": str(path), "bytes": path.stat().st_size, "complaints": page.complaints}))


if __name__ == "__main__":
    trio.run(take_picture, Path(sys.argv[1]))
