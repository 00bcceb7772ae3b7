"""What one relay process bears, beside a bare trio-websocket echo that the same clients talk to in the same run.

    relay_load.py [--only joins|idle|messages|rooms|nodes] [--seconds 30] [--members 10000] [--smoke]

Each measure is a line of JSON with its target, whether that is met, and the yardstick beside it. The server is on one
core, the clients are on the others: one process with one `epoll`, that costs less than the relay, without PAKE or TLS,
websocket frames put together by hand. Each says by X-Forwarded-For that it comes from a source of its own, as through a
load balancer, so that the limits per source are those of the default. `per_cpu_s`, how much a second of the servers'
processor does, is what counts on a machine that has other things to do.

- joins: pairs that meet (two connections, `allocate`, `join`) and part; a member that has its place counts as one join;
  and how many clients a second of the processor sends away that have given up before their turn came
- idle: members in rooms, and the memory of the process that each takes
- messages: pairs that send 100 bytes as fast as they are acknowledged, and then at half of the target, and how long
  each took
- rooms: 64 rooms of 64; how long a message to all takes to the last
- nodes: joins at one node and at two that share a Redis, each member at any of them; what Redis has to do for a join.
  `gain` is by the processor time of the nodes: the clients and Redis need a processor, too, which one of two nodes on
  two cores has to share with them. `gain_of_wall_clock` is what that leaves
"""

from __future__ import annotations

import argparse
import resource
import secrets
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from cheap_clients import PATIENCE_S, Client, Loop, Talk, frame_of
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from icesignal import tickets, wire
from relay_processes import Rate, Server, echo, leave_first_core, rate_of, relay, running_redis, tell

AT_ONCE = 64
"""Pairs that are on their way to meet at the same time."""
PAIRS = 64
"""Rooms in which messages are sent."""
PAYLOAD_BYTES = 100
OUTSTANDING = 8
"""Messages of a sender that are not acknowledged yet."""
ROOMS, MEMBERS = 64, 64
MEMBERS_IN_REDIS = 500
GIVEN_UP = 2_000
"""Fewer than the system lets wait to be accepted."""
# The targets.
JOINS_PER_S, IDLE_MB, IDLE_MEMBERS, MESSAGES_PER_S, P99_MS, LAST_MS, GAIN = 1_000, 250, 10_000, 8_000, 25, 50, 1.6


def echoed_connections(seconds: float) -> Rate:
    """Measure the yardstick of joins: connections, each with one message and its echo."""
    with echo() as server:
        loop, done, open_now = Loop(server.url), [0], [0]

        def talk(client: Client) -> Talk:
            yield
            client.send_bytes(b"x" * PAYLOAD_BYTES)
            yield
            done[0] += 1
            open_now[0] -= 1

        def greet() -> float:
            while open_now[0] < 2 * AT_ONCE:
                open_now[0] += 1
                loop.connect(talk)
            return PATIENCE_S

        result = rate_of([server], loop, seconds, greet, done)
        loop.close()
    return result


def echoed_messages(seconds: float) -> Rate:
    """Measure the yardstick of messages: as many connections as there are pairs, and what they send comes back."""
    with echo() as server:
        loop, done = Loop(server.url), [0]

        def talk(client: Client) -> Talk:
            yield
            for _ in range(OUTSTANDING):
                client.send_bytes(b"x" * PAYLOAD_BYTES)
            while True:
                yield
                done[0] += 1
                client.send_bytes(b"x" * PAYLOAD_BYTES)

        for _ in range(PAIRS):
            loop.connect(talk)
        result = rate_of([server], loop, seconds, lambda: PATIENCE_S, done)
        loop.close()
    return result


def idle_echoes(number: int) -> float:
    """Measure the yardstick of idle members: kilobytes of the server's for each connection."""
    with echo() as server:
        loop, here = Loop(server.url), [0]

        def stay(client: Client) -> Talk:
            yield
            here[0] += 1
            while True:
                yield

        before = server.resident_mb()
        _gather(loop, stay, number, here)
        result = 1024 * (server.resident_mb() - before) / number
        loop.close()
    return result


def _gather(loop: Loop, stay: Callable[[Client], Talk], number: int, here: list[int]) -> None:
    """Have so many come, not too many at once."""
    for asked in range(number):
        loop.connect(stay)
        while asked - here[0] > AT_ONCE:
            loop.turn()
    while here[0] < number:
        loop.turn()


def joins_at(servers: list[Server], seconds: float) -> tuple[Rate, int]:
    """Have pairs meet, each member at any of the servers; return how fast, and how many joins there were in all."""
    loop, done, open_now = Loop(*(server.url for server in servers)), [0], [0]

    def invite(client: Client) -> Talk:
        yield
        yield  # welcome
        client.send(wire.Allocate(session=secrets.token_bytes(16), opening=b"o" * 33))
        room = str(frame_of((yield))["room"])
        done[0] += 1
        loop.connect(lambda other: join(other, room))
        yield  # the peer is there
        client.send(wire.Close(reason="done"))
        yield

    def join(client: Client, room: str) -> Talk:
        yield
        yield
        client.send(wire.Join(session=secrets.token_bytes(16), nameplate=room, opening=b"o" * 33))
        answer = frame_of((yield))
        if answer["type"] != "joined":
            raise SystemExit(f"no join: {answer}")
        done[0] += 1
        yield  # closed by the inviter
        open_now[0] -= 1

    def meet() -> float:
        while open_now[0] < AT_ONCE:
            open_now[0] += 1
            loop.connect(invite)
        return PATIENCE_S

    result = rate_of(servers, loop, seconds, meet, done)
    loop.close()
    return result, done[0]


def given_up(server: Server) -> float:
    """Return how many clients that have given up before their turn came a second of the processor sends away."""
    server.pause()
    loop = Loop(server.url)
    for _ in range(GIVEN_UP):
        loop.connect(lambda client: cast("Talk", repeat(None)))
        loop.turn(0.0)
    loop.close()
    used, before = -1.0, server.cpu_s()
    server.go_on()
    while server.cpu_s() - before > used:  # until it does nothing any more
        used = server.cpu_s() - before
        time.sleep(1.0)
    return GIVEN_UP / max(used, 0.01)


def joins(seconds: float) -> None:
    """Measure how fast pairs meet."""
    yardstick = echoed_connections(seconds / 3)
    with relay() as server:
        result, _ = joins_at([server], seconds)
        abandoned = given_up(server)
    tell(
        "joins",
        is_met=result.per_s >= JOINS_PER_S,
        **result.rounded(),
        target_per_s=JOINS_PER_S,
        seconds=seconds,
        given_up_per_cpu_s=round(abandoned),
        echoed_connections=yardstick.rounded(),
    )


def members_at(server: Server, number: int) -> Loop:
    """Have so many members wait in rooms of their own."""
    loop, here = Loop(server.url), [0]

    def stay(client: Client) -> Talk:
        yield
        yield
        client.send(wire.Allocate(session=secrets.token_bytes(16), opening=b"o" * 33))
        yield
        here[0] += 1
        while True:
            yield

    _gather(loop, stay, number, here)
    return loop


def idle(members: int, seconds: float) -> None:
    """Measure what members take who do nothing."""
    yardstick = idle_echoes(members // 5)
    with relay() as server:
        before = server.resident_mb()
        loop = members_at(server, members)
        cpu, began = server.cpu_s(), time.perf_counter()
        while time.perf_counter() - began < seconds:
            loop.turn()
        share = (server.cpu_s() - cpu) / (time.perf_counter() - began)
        now = server.resident_mb()
        tell(
            "idle",
            is_met=now <= IDLE_MB if members >= IDLE_MEMBERS else None,
            mb=round(now),
            target_mb=IDLE_MB,
            members=members,
            kb_each=round(1024 * (now - before) / members, 1),
            share_of_a_core=round(share, 4),
            echo_kb_each=round(yardstick, 1),
        )
        loop.close()


class Pairs:
    """Rooms of two in which messages go one way."""

    def __init__(self, server: Server, number: int) -> None:
        """Have all of them meet."""
        self.loop, self.done, self.took_s = Loop(server.url), [0], list[float]()
        self.senders: list[Client] = []
        self.free: deque[Client] = deque()  # senders, once for each message that they may send
        self._numbers: dict[int, int] = {}
        for _ in range(number):
            self.loop.connect(self._invite)
        while len(self.senders) < number:
            self.loop.turn()

    def _invite(self, client: Client) -> Talk:
        yield
        yield
        client.send(wire.Allocate(session=secrets.token_bytes(16), opening=b"o" * 33))
        room = str(frame_of((yield))["room"])
        self.loop.connect(lambda other: self._join(other, room))
        yield
        self.senders.append(client)
        self.free.extend(OUTSTANDING * [client])
        while True:
            if frame_of((yield))["type"] == "ack":
                self.free.append(client)

    def _join(self, client: Client, room: str) -> Talk:
        yield
        yield
        client.send(wire.Join(session=secrets.token_bytes(16), nameplate=room, opening=b"o" * 33))
        yield
        while True:
            frame = frame_of((yield))
            if frame["type"] == "message":
                sent_at = float(cast("bytes", frame["payload"])[:20])
                self.took_s.append(time.perf_counter() - sent_at)
                self.done[0] += 1

    def send(self) -> float:
        """Send what may be sent, at most once for each sender; return how long to wait for more."""
        for _ in range(min(len(self.free), PAIRS)):
            self.send_one()
        return PATIENCE_S

    def send_one(self) -> None:
        """Send one message."""
        client = self.free.popleft()
        number = self._numbers[id(client)] = self._numbers.get(id(client), 0) + 1
        payload = f"{time.perf_counter():020.9f}".encode().ljust(PAYLOAD_BYTES)
        client.send(wire.Send(client_seq=number, payload=payload))


def messages(seconds: float) -> None:
    """Measure how many messages are relayed, and how long they take at half of the target."""
    yardstick = echoed_messages(seconds / 2)
    with relay() as server:
        pairs = Pairs(server, PAIRS)
        full = rate_of([server], pairs.loop, seconds, pairs.send, pairs.done)
        while len(pairs.free) < PAIRS * OUTSTANDING:
            pairs.loop.turn()
        pairs.took_s.clear()
        paced = min(MESSAGES_PER_S, full.per_s) / 2
        due = time.perf_counter()

        def pace() -> float:
            nonlocal due
            while due < time.perf_counter() and pairs.free:
                pairs.send_one()
                due += 1 / paced
            return max(0.0, due - time.perf_counter())

        half = rate_of([server], pairs.loop, seconds, pace, pairs.done)
        times = sorted(pairs.took_s)
        p99_ms = 1e3 * times[len(times) * 99 // 100]
        tell(
            "messages",
            is_met=full.per_s >= MESSAGES_PER_S and p99_ms <= P99_MS,
            **full.rounded(),
            target_per_s=MESSAGES_PER_S,
            paced=half.rounded(),
            paced_median_ms=round(1e3 * statistics.median(times), 2),
            paced_p99_ms=round(p99_ms, 2),
            target_p99_ms=P99_MS,
            echoed_messages=yardstick.rounded(),
        )
        pairs.loop.close()


class Many:
    """Rooms of many."""

    def __init__(self, server: Server, rooms: int, members: int) -> None:
        """Have everybody come in."""
        self.loop, self.heard = Loop(server.url), 0
        self.speakers: list[Client] = []
        self._entered = 0
        for number in range(rooms):
            key = Ed25519PrivateKey.generate()
            for place in range(members):
                self.loop.connect(partial(self._enter, room=key, is_first=place == 0))
            while self._entered < (number + 1) * members:
                self.loop.turn()

    def _enter(self, client: Client, *, room: Ed25519PrivateKey, is_first: bool) -> Talk:
        key, session = Ed25519PrivateKey.generate(), secrets.token_bytes(16)
        yield
        welcome = frame_of((yield))
        ticket = tickets.issue(
            room,
            tickets.Ticket(
                room=room.public_key().public_bytes_raw(),
                id=secrets.token_bytes(16),
                key=key.public_key().public_bytes_raw(),
                role="member",
                expires=int(time.time()) + 3600,
            ),
        )
        proof = tickets.prove(key, cast("bytes", welcome["challenge"]), session, ticket)
        client.send(wire.Enter(session=session, ticket=ticket, proof=proof, opening=b"o" * 33))
        while True:
            kind = frame_of((yield))["type"]
            if kind == "entered":
                self._entered += 1
                if is_first:
                    self.speakers.append(client)
            elif kind == "message":
                self.heard += 1


def rooms(number: int, members: int, rounds: int) -> None:
    """Measure how long a message to all takes to the last."""
    with relay() as server:
        cpu = server.cpu_s()
        many, took_ms = Many(server, number, members), list[float]()
        entered_ms = 1e3 * (server.cpu_s() - cpu) / (number * members)
        cpu = server.cpu_s()
        for count in range(1, rounds + 1):
            for speaker in many.speakers:
                began, many.heard = time.perf_counter(), 0
                speaker.send(wire.Send(client_seq=count, payload=bytes(PAYLOAD_BYTES)))
                while many.heard < members - 1:
                    many.loop.turn()
                took_ms.append(1e3 * (time.perf_counter() - began))
        tell(
            "rooms",
            is_met=max(took_ms) <= LAST_MS if (number, members) == (ROOMS, MEMBERS) else None,
            worst_ms=round(max(took_ms), 1),
            target_ms=LAST_MS,
            median_ms=round(statistics.median(took_ms), 1),
            cpu_ms_each=round(1e3 * (server.cpu_s() - cpu) / len(took_ms), 2),
            cpu_ms_entry=round(entered_ms, 2),
            rooms=number,
            members=members,
        )
        many.loop.close()


def nodes(seconds: float) -> None:
    """Measure what a second node brings, and what Redis does for a join."""
    with running_redis() as redis:
        with relay(redis.url) as one:
            alone, _ = joins_at([one], seconds)
        with relay(redis.url) as one, relay(redis.url, core=1) as other:
            before = redis.information()
            both, number = joins_at([one, other], seconds)
            after = redis.information()
        with relay(redis.url) as one:
            empty = redis.information()
            members_at(one, MEMBERS_IN_REDIS).close()
            full = redis.information()
        with relay(redis.url) as one:
            pairs = Pairs(one, PAIRS)
            quiet = redis.information()
            relayed = rate_of([one], pairs.loop, seconds / 2, pairs.send, pairs.done)
            loud = redis.information()
            pairs.loop.close()
        gain = 2 * both.per_cpu_s / alone.per_cpu_s
        tell(
            "nodes",
            is_met=gain >= GAIN,
            gain=round(gain, 2),
            target_gain=GAIN,
            gain_of_wall_clock=round(both.per_s / alone.per_s, 2),
            one=alone.rounded(),
            two=both.rounded(),
            redis_for_a_join=_for_each(before, after, number),
            messages_of_one=relayed.rounded(),
            redis_for_a_message=_for_each(quiet, loud, pairs.done[0]),
            redis_kb_each_member=round((full["used_memory"] - empty["used_memory"]) / MEMBERS_IN_REDIS / 1024, 2),
        )


def _for_each(before: dict[str, float], after: dict[str, float], number: int) -> dict[str, float]:
    """Return what Redis has done for each join or message."""
    used = {key: value - before.get(key, 0.0) for key, value in after.items()}
    return {
        "scripts": round(used["cmdstat_evalsha"] / number, 1),
        "cpu_us": round(1e6 * (used["used_cpu_user"] + used["used_cpu_sys"]) / number),
        "kb": round((used["total_net_input_bytes"] + used["total_net_output_bytes"]) / number / 1024, 1),
    }


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("joins", "idle", "messages", "rooms", "nodes"))
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--members", type=int, default=IDLE_MEMBERS)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, 2 * (resource.getrlimit(resource.RLIMIT_NOFILE)[1],))
    leave_first_core()
    seconds, members = (1.0, 200) if options.smoke else (options.seconds, options.members)
    runs: dict[str, Callable[[], None]] = {
        "joins": lambda: joins(seconds),
        "idle": lambda: idle(members, min(seconds, 10.0)),
        "messages": lambda: messages(seconds / 3),
        "rooms": lambda: rooms(*((2, 8, 2) if options.smoke else (ROOMS, MEMBERS, 4))),
        "nodes": lambda: nodes(seconds / 3),
    }
    for name, run in runs.items():
        if options.only in (None, name):
            run()


if __name__ == "__main__":
    main()
