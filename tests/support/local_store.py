"""The store of the shared engine in memory: what Redis does with its scripts, as plainly as can be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import trio
from icesignal.engines.shared import StoreAway
from icesignal.engines.shared.desk import KEEP_S
from icesignal.engines.shared.node import NODE_S
from icesignal.engines.shared.requests import (
    Answer,
    Beat,
    Load,
    Lookup,
    Pay,
    Prepare,
    Pulse,
    Reply,
    Request,
    Retire,
    Step,
    Unreadable,
)
from icesignal.engines.shared.state import EMPTY, Change, decode_change, encode_change, read_state
from icesignal.nameplates import Guesses
from icesignal.sources import Balance, Bucket

AGE_S = 1_700_000_000.0  # what is stored has another time than the nodes


@dataclass
class Stored:
    version: str = ""
    fields: dict[str, bytes] = field(default_factory=dict)
    entries: dict[int, bytes] = field(default_factory=dict)
    until: float = 0.0


@dataclass
class LocalStore:
    """What all nodes share. `perform` is one step of it; what it publishes is for the caller to carry."""

    max_rooms: int = 128
    rooms: dict[str, Stored] = field(default_factory=dict)
    sessions: dict[bytes, tuple[str, float]] = field(default_factory=dict)
    usage: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    nodes: dict[int, float] = field(default_factory=dict)
    guesses: Guesses = field(default_factory=Guesses)
    waiting: dict[int, tuple[int, float]] = field(default_factory=dict)
    budgets: dict[tuple[str, str], Bucket] = field(default_factory=dict)

    def perform(self, now: float, request: Request) -> tuple[Answer, list[tuple[int, Change]]]:
        """Do what is asked; return the answer, and what is published to which node."""
        match request:
            case Lookup(session):
                key, until = self.sessions.get(session, (None, 0.0))
                return (key if until > now else None), []
            case Load(key):
                try:
                    return self.load(now, key), []
                except msgspec.DecodeError:
                    return Unreadable(), []
            case Prepare(key, sessions, levels, keep_s):
                return self._prepare(now, key, sessions, levels, keep_s), []
            case Step(change, nodes, keep_s):
                return self._step(now, encode_change(change), nodes, keep_s)
            case Retire(key, levels):
                for name, _ in levels:
                    self.usage[name].pop(key, None)
                return None, []
            case Beat(node, others, guesses, waiting):
                is_known = self.nodes.get(node, 0.0) > now
                self.nodes[node] = now + NODE_S
                for _ in range(guesses):
                    self.guesses.note(now)
                alive = frozenset(other for other in others if self.nodes.get(other, 0.0) > now)
                self.waiting[node] = (waiting, now + NODE_S)
                waits = sum(count for count, until in self.waiting.values() if until > now)
                return Pulse(alive, self.guesses.amount(now), waits, is_known=is_known), []
            case Pay(levels, charges):
                return self._pay(now, levels, charges), []
        raise AssertionError(request)

    def _pay(self, now, levels, charges) -> Balance:
        buckets = [
            [self.budgets.setdefault((name, one.kind), one.rate.scaled(scale).bucket(now)) for one in charges]
            for name, scale in levels
        ]
        is_paid = all(
            bucket.has(now, one.cost) or not one.is_needed
            for level in buckets
            for bucket, one in zip(level, charges, strict=True)
        )
        for level in buckets if is_paid else ():
            for bucket, one in zip(level, charges, strict=True):
                bucket.take(now, one.cost)
                bucket.tokens = min(bucket.tokens, bucket.rate.burst)
        return Balance(is_paid, tuple(tuple(bucket.tokens for bucket in level) for level in buckets))

    def load(self, now: float, key: str):
        room = self.rooms.get(key)
        if room is None or room.until <= now:
            return EMPTY
        return read_state(room.version, dict(room.fields), dict(room.entries))

    def _prepare(self, now, key, sessions, levels, keep_s) -> bool:
        for name, scale in levels:
            rooms = self.usage[name]
            for other in [other for other, until in rooms.items() if until <= now]:
                del rooms[other]
            if key not in rooms and len(rooms) >= self.max_rooms * scale:
                return False
        for name, _ in levels:
            self.usage[name][key] = now + keep_s
        for session in sessions:
            self.sessions[session] = (key, now + keep_s)
        return True

    def _step(self, now, data, nodes, keep_s) -> tuple[bool, list[tuple[int, Change]]]:
        change = decode_change(data)
        room = self.rooms.get(change.key)
        if room is None or room.until <= now:
            room = Stored()
        if room.version != change.before:
            return False, []
        if change.is_whole:
            room = Stored()
        self.rooms[change.key] = room
        room.version, room.until = change.after, now + keep_s
        room.fields |= change.put
        for name in change.drop:
            room.fields.pop(name, None)
        room.entries |= change.entries
        for seq in change.trimmed:
            room.entries.pop(seq, None)
        return True, [(node, decode_change(data)) for node in nodes]


assert KEEP_S > NODE_S


class SharedLocalStore:
    """A `Store` of several nodes of one process. `is_away` and `lose` are for tests."""

    def __init__(self, max_rooms: int = 128) -> None:
        self.local = LocalStore(max_rooms)
        self.is_away = False
        self._listeners: dict[int, trio.MemorySendChannel[Change]] = {}

    def now(self) -> float:
        return trio.current_time() + AGE_S

    async def check(self) -> None:
        await trio.lowlevel.checkpoint()

    async def perform(self, request: Request) -> Reply:
        await trio.lowlevel.checkpoint()
        if self.is_away:
            raise StoreAway("it is away")
        answer, published = self.local.perform(self.now(), request)
        for node, change in published:
            if node in self._listeners:
                self._listeners[node].send_nowait(change)
        await trio.lowlevel.checkpoint()
        if self.is_away:
            raise StoreAway("it went away")
        return Reply(self.now(), answer)

    @asynccontextmanager
    async def listen(self, node: int) -> AsyncIterator[AsyncIterator[Change]]:
        await trio.lowlevel.checkpoint()
        if self.is_away:
            raise StoreAway("it is away")
        self._listeners[node], changes = trio.open_memory_channel[Change](10_000)

        async def heard() -> AsyncIterator[Change]:
            async for change in changes:
                yield change
            raise StoreAway("nothing is heard any more")

        try:
            yield heard()
        finally:
            self._listeners.pop(node, None)

    def go_away(self) -> None:
        """Be away, for everybody."""
        self.is_away = True
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
