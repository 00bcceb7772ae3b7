"""How many honest codes a guesser spoils at a relay process, and what honest people notice of him.

    relay_guesses.py [--seconds 60] [--sources 500] [--standing 50] [--pairs-per-s 2] [--engine URL] [--smoke]

The guesser has so many sources, each in a network of its own, and 8 cores at 10 million rounds of PBKDF2 a second,
which is twice what OpenSSL does: his work is credited, not done, and the relay is told to take it
(`tests/support/guesser.py`). He knows how long codes are, takes what is free at once from all sources together, repeats
no number, and pays where it is cheapest. Honest pairs open codes, read them out for 2 to 10 s, and join with our own
client; they are in a process of their own, and as each of them has a machine of his own, but here all have the same two
cores, four of five wait as long as their work takes of a core, and one does it. Some codes are there before he comes,
and wait until he is gone. Prints one line of JSON; the times of joins are those of this machine under whatever else it
does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from secrets import token_bytes
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import icesignal
import trio
from guesser import CORES, CREDIT, ROUNDS_PER_S, Guesser
from icesignal import member_client, wire
from icesignal.work import ROUNDS, Work, solve
from relay_client import RawClient, connect_raw, speaking_for

CONFIG = """
listen = "127.0.0.1:0"
trusted_proxies = ["127.0.0.1"]
engine = "{engine}"
"""
RELAY = """
import sys
sys.stderr = sys.stdout
sys.path.insert(0, {support!r})
from guesser import credited
from icesignal import toll
from icesignal.main import main
toll.is_solved = credited(toll.is_solved)
main()
"""
SUPPORT = str(Path(__file__).resolve().parent.parent / "tests" / "support")
REAL = 5
"""Each fifth honest join does its work; the others, which would have the same two cores, wait."""
LOOK_S = 5.0
"""How often the guesser makes a code himself, to see how long they are now."""


@contextmanager
def relay(engine: str) -> Iterator[str]:
    """Run a relay as `icesignal-relay` does, but for credits; give its URL."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "relay.toml")
        config.write_text(CONFIG.format(engine=engine))
        command = [sys.executable, "-c", RELAY.format(support=SUPPORT), "--config", str(config)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield process.stdout.readline().split()[-1]
            finally:
                process.terminate()
                process.wait()


# -- honest people, in a process of their own


class Honest:
    """Pairs that meet; each side has an address of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.joins: list[float] = []
        self.became: Counter[str] = Counter()
        self.digits: Counter[int] = Counter()
        self._people = 0

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[icesignal.Client]:
        self._people += 1
        source = f"10.{self._people // 250 % 250}.{self._people % 250}.1"
        async with icesignal.open_client(self.url, open_stream=speaking_for(source)) as client:
            yield client

    @staticmethod
    async def _invite(invitation: icesignal.Invitation) -> None:
        channel = await invitation.wait_peer()
        await channel.send({"hello": True})

    async def pair(self, read_s: float, made: trio.Event | None = None, wanted: trio.Event | None = None) -> None:
        """Make a code, read it out, and use it; what goes wrong is counted by its kind."""
        try:
            async with self._client() as first, icesignal.open_invitation(first) as invitation:
                self.digits[len(invitation.code.partition("-")[0])] += 1
                if made is not None:
                    made.set()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._invite, invitation)
                    if wanted is not None:
                        await wanted.wait()
                    await trio.sleep(read_s)
                    began = trio.current_time()
                    async with self._client() as second, icesignal.open_join(second, invitation.code) as channel:
                        self.joins.append(trio.current_time() - began)
                        await channel.receive()
                        self.became["met"] += 1
        except* icesignal.CodeError as errors:
            self.became["spoilt"] += 1
            del errors
        except* icesignal.SignalError as errors:
            self.became[type(errors.exceptions[0]).__name__] += 1
            print(repr(errors), file=sys.stderr)


async def be_honest(url: str, seconds: float, standing: int, per_s: float) -> None:
    """Have pairs meet; say when the standing codes are made, and at the end what became of all."""
    honest, random, over = Honest(url), Random(7), trio.Event()
    solver = Solver(Random(8))
    async with trio.open_nursery() as nursery:
        for number in range(standing):
            made = trio.Event()
            nursery.start_soon(honest.pair, number * 0.2, made, over)
            await made.wait()
        began = trio.current_time()
        count = 0
        is_told = False
        while trio.current_time() - began < seconds + 10:
            nursery.start_soon(honest.pair, random.uniform(2, 10))
            count += 1
            if not is_told and trio.current_time() - began >= 10:
                is_told = True
                print("ready", flush=True)
            await trio.sleep_until(began + count / per_s)
        during = len(honest.joins)
        over.set()
    print(
        json.dumps(
            {
                "became": honest.became,
                "digits": honest.digits,
                "solved": solver.cpu_s,
                "modelled": solver.modelled_s,
                "joins": honest.joins[:during] or honest.joins,
                "codes": sum(honest.became.values()),
            }
        ),
        flush=True,
    )


def own_core_rounds_per_s() -> float:
    """Return how many rounds one core of this machine does in a second, by the processor's own time."""
    began = time.thread_time()
    for number in range(200):
        hashlib.pbkdf2_hmac("sha256", number.to_bytes(8, "big"), bytes(64), ROUNDS)
    return 200 * ROUNDS / (time.thread_time() - began)


class Solver:
    """Solves for honest people, who have a machine each: all but each fifth wait for as long as it takes."""

    def __init__(self, random: Random) -> None:
        self.cpu_s: list[float] = []
        self.modelled_s: list[float] = []
        self._random = random
        self._rounds_per_s = own_core_rounds_per_s()
        self._count = 0
        member_client.solve = self.solve

    def solve(self, work: Work, subject: bytes, is_stopped: Callable[[], bool] = lambda: False) -> bytes:
        """Return a solution, in a thread."""
        self._count += 1
        if self._count % REAL == 0:
            began = time.thread_time()
            solution = solve(work, subject, is_stopped)
            self.cpu_s.append(time.thread_time() - began)
            return solution
        took = self._random.gammavariate(work.parts, (work.rounds << work.bits) / self._rounds_per_s)
        self.modelled_s.append(took)
        time.sleep(took)
        return CREDIT


# -- the guesser


class Attack:
    """One who guesses from many sources for some time."""

    def __init__(self, url: str, sources: int, seconds: float) -> None:
        self.url = url
        self.seconds = seconds
        self.answers: Counter[str] = Counter()
        self._sources = deque(f"11.{number // 256}.{number % 256}.1" for number in range(sources))
        self.began = 0.0

    async def run(self) -> Guesser:
        """Guess; return what it came to."""
        self.guesser = guesser = Guesser(Random(11), await self._length())
        guesser.see(guesser.length)
        async with AsyncExitStack() as stack:
            crowd = [(one, await stack.enter_async_context(connect_raw(self.url, source=one))) for one in self._sources]
            self.began = trio.current_time()
            async with trio.open_nursery() as nursery:  # whatever is free, from everywhere at once
                for _, client in crowd:
                    nursery.start_soon(self._guess, client)
        with trio.move_on_at(self.began + self.seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._look)
                for _ in range(min(64, len(self._sources))):
                    nursery.start_soon(self._work)
        return guesser

    async def _length(self) -> int:
        async with connect_raw(self.url, source="12.0.0.1") as client:
            made = await client.ask(wire.Allocate(session=token_bytes(16)))
            return len(made.room) if isinstance(made, wire.Joined) else 9

    async def _look(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            self.guesser.see(await self._length())

    async def _work(self) -> None:
        while True:
            source = self._sources.popleft()
            try:
                async with connect_raw(self.url, source=source) as client:
                    await self._guess(client)  # once: each source in its turn, that is cheapest
            except icesignal.SignalError as error:
                self.answers[type(error).__name__] += 1
            self._sources.append(source)

    async def _guess(self, client: RawClient) -> None:
        """Guess once."""
        number = self.guesser.number()
        puzzle: Any = client.welcome.work
        for _ in range(2):
            if isinstance(puzzle, Work):
                await trio.sleep_until(self.guesser.pays_at(puzzle, self.began))
                frame = wire.Join(session=token_bytes(16), nameplate=number, work=CREDIT)
            else:
                frame = wire.Join(session=token_bytes(16), nameplate=number)
            answer = await client.ask(frame)
            if not (isinstance(answer, wire.Error) and answer.code == "work"):
                break
            puzzle = answer.work
        self.answers[answer.code if isinstance(answer, wire.Error) else answer.type] += 1
        if isinstance(answer, wire.Error) and answer.code in ("work", "rate"):
            return
        self.guesser.note(number, is_hit=isinstance(answer, wire.Joined), was_free=not isinstance(puzzle, Work))


def main(arguments: argparse.Namespace) -> None:
    """Run relay, honest people and guesser; print what came of it."""
    with relay(arguments.engine) as url:
        command = [sys.executable, __file__, "--honest", url, *passed_on(arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as honest:
            assert honest.stdout is not None
            assert honest.stdout.readline().strip() == "ready"
            attack = Attack(url, arguments.sources, arguments.seconds)
            guesser = trio.run(attack.run)
            told = json.loads(honest.stdout.readline())
    line = {
        "kind": "relay-guesses",
        "seconds": arguments.seconds,
        "sources": arguments.sources,
        "honest_codes": told["codes"],
        "spoilt": told["became"].get("spoilt", 0),
        "became": told["became"],
        "digits": told["digits"],
        "join_s": spread(told["joins"]),
        "work_cpu_s": spread(told["solved"]),
        "work_modelled_s": spread(told["modelled"]),
        "guesses": guesser.guesses,
        "free_guesses": guesser.free,
        "hits": guesser.hits,
        "guesses_by_digits": dict(sorted(guesser.by_length.items())),
        "answers": attack.answers,
        "rounds_paid": round(guesser.rounds_spent),
        "rounds_per_s": round(CORES * ROUNDS_PER_S),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(line), flush=True)


def spread(seconds: list[float]) -> dict[str, float]:
    """Return median, 95th percentile and maximum."""
    values = sorted(seconds) or [0.0]
    p95 = values[int(0.95 * (len(values) - 1))]
    return {"p50": round(statistics.median(values), 3), "p95": round(p95, 3), "max": round(values[-1], 3)}


def passed_on(arguments: argparse.Namespace) -> list[str]:
    """Return the options of the honest process."""
    return [
        *("--seconds", str(arguments.seconds)),
        *("--standing", str(arguments.standing)),
        *("--pairs-per-s", str(arguments.pairs_per_s)),
    ]


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--sources", type=int, default=500)
    parser.add_argument("--standing", type=int, default=50)
    parser.add_argument("--pairs-per-s", type=float, default=2.0)
    parser.add_argument("--engine", default="memory")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--honest", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.seconds, arguments.sources, arguments.standing = 3.0, 20, 5
    return arguments


if __name__ == "__main__":
    chosen = parse()
    if chosen.honest:
        trio.run(be_honest, chosen.honest, chosen.seconds, chosen.standing, chosen.pairs_per_s)
    else:
        main(chosen)
