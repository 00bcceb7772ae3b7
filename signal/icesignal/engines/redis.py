"""The store of the shared engine in Redis 7 or Valkey: one script for each request, and a channel for each node.

Keys of a room share a hash tag, so that a cluster keeps them together. A script is done as a whole or not at all, also
in the append-only file. What it has stored it publishes to the nodes that members are connected to: each listens on one
channel of its own, so that a room costs no subscription; in a cluster these messages go to all its servers.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Final
from urllib.parse import unquote, urlsplit

import anyio
import coredis
import msgspec
import trio
from coredis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterCrossSlotError,
    InvalidResponse,
    MovedError,
    NoScriptError,
    ProtocolError,
    RedisError,
    ResponseError,
    UnknownCommandError,
)
from coredis.response.types import PubSubMessage
from coredis.retry import NoRetryPolicy

from icesignal.engines.shared.engine import StoreAway, StoreRefused
from icesignal.engines.shared.node import NODE_S
from icesignal.engines.shared.requests import Beat, Load, Lookup, Prepare, Pulse, Reply, Request, Retire, Step
from icesignal.engines.shared.state import EMPTY, Change, decode_change, encode_change, read_state
from icesignal.nameplates import GUESS_HALF_LIFE_S
from icesignal.sources import Levels

CONNECT_S: Final = 3.0
REQUEST_S: Final = 5.0  # within the patience of a client, twice
CONNECTIONS: Final = 16
QUIET_S: Final = 5.0  # a channel that is silent is asked for a sign of life
GUESSES_S: Final = 3_600  # after twelve half-lives there is nothing to be kept
DEFAULT_PORT: Final = 6379
ANSWER: Final = 2  # at least: every script begins with seconds and microseconds of the server's time
EXAMPLE: Final = "redis://127.0.0.1:6379/0"
_BROKEN = (
    RedisError,
    OSError,
    TimeoutError,
    trio.TooSlowError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
)

_NOW = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000) "
LOOKUP = _NOW + "return {t[1], t[2], redis.call('GET', KEYS[1])}"
LOAD = _NOW + "return {t[1], t[2], redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}"
# KEYS: ARGV[1] sources, then sessions. ARGV: that, the room, for how long, how many rooms each source may have.
PREPARE = (
    _NOW
    + """
local levels = tonumber(ARGV[1])
for i = 1, levels do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
  if not redis.call('ZSCORE', KEYS[i], ARGV[2]) and redis.call('ZCARD', KEYS[i]) >= tonumber(ARGV[3 + i]) then
    return {t[1], t[2], 0}
  end
end
for i = 1, levels do
  redis.call('ZADD', KEYS[i], now + ARGV[3], ARGV[2])
  redis.call('PEXPIRE', KEYS[i], ARGV[3])
end
for i = levels + 1, #KEYS do redis.call('SET', KEYS[i], ARGV[2], 'PX', ARGV[3]) end
return {t[1], t[2], 1}
"""
)
# KEYS: the room's fields, its log. ARGV: the change as it is published, for how long, the version it was made from,
# the one that it makes, whether what was stored goes first; then four lists with their lengths before them: fields and
# values, fields that go, entries by seq, seqs that go. What is left are the channels of the nodes that are told.
STEP = (
    _NOW
    + """
if (redis.call('HGET', KEYS[1], 'v') or '') ~= ARGV[3] then return {t[1], t[2], 0} end
if ARGV[5] == '1' then redis.call('DEL', KEYS[1], KEYS[2]) end
redis.call('HSET', KEYS[1], 'v', ARGV[4])
local at = 6
for _, list in ipairs({{KEYS[1], 2}, {KEYS[1], 1}, {KEYS[2], 2}, {KEYS[2], 1}}) do
  local last = at + tonumber(ARGV[at]) * list[2]
  for i = at + 1, last, list[2] do
    if list[2] == 2 then redis.call('HSET', list[1], ARGV[i], ARGV[i + 1]) else redis.call('HDEL', list[1], ARGV[i]) end
  end
  at = last + 1
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
for i = at, #ARGV do redis.call('PUBLISH', ARGV[i], ARGV[1]) end
return {t[1], t[2], 1}
"""
)
# KEYS: the guesses. ARGV: how many more, the half-life, for how long; then which node asks, how many of its nameplates
# wait to be claimed, for how long that counts.
GUESSES = (
    _NOW
    + """
local known = redis.call('HMGET', KEYS[1], 'amount', 'at')
local amount = (tonumber(known[1]) or 0) * 2 ^ (((tonumber(known[2]) or now) - now) / 1000 / ARGV[2])
if tonumber(ARGV[1]) > 0 then
  amount = amount + ARGV[1]
  redis.call('HSET', KEYS[1], 'amount', tostring(amount), 'at', string.format('%.0f', now))
end
redis.call('HSET', KEYS[1], 'w:' .. ARGV[4], ARGV[5] .. ':' .. string.format('%.0f', now + ARGV[6]))
redis.call('EXPIRE', KEYS[1], ARGV[3])
local waiting, fields = 0, redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 2) == 'w:' then
    local count, last = string.match(fields[i + 1], '(%d+):(%d+)')
    if tonumber(last) > now then waiting = waiting + count else redis.call('HDEL', KEYS[1], fields[i]) end
  end
end
return {t[1], t[2], tostring(amount), tostring(waiting)}
"""
)


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis is, and as whom it is spoken to."""

    host: str
    port: int
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    is_tls: bool = False
    is_cluster: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.is_tls else 'redis'}://{host}:{self.port}"


def parse_redis_url(url: str) -> RedisAddress:
    """Return where `redis://[USER:PASSWORD@]HOST[:PORT][/DB][?cluster=yes]`, or the same with `rediss`, leads.

    Raises:
        ValueError: it is none of these. The text does not have the password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"the engine's URL has no port from 1 to 65535; a right one: {EXAMPLE}") from None
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError(f"no engine is called {parts.scheme or 'so'!r}; there are memory and {EXAMPLE}")
    db = parts.path.strip("/") or "0"
    if not parts.hostname or not (db.isascii() and db.isdigit() and len(db) < 4) or parts.fragment:
        raise ValueError(f"the engine's URL is not redis://[USER:PASSWORD@]HOST[:PORT][/DB]; a right one: {EXAMPLE}")
    if parts.query not in ("", "cluster=yes"):
        raise ValueError("the engine's URL may end with ?cluster=yes, and with nothing else")
    return RedisAddress(
        host=parts.hostname,
        port=DEFAULT_PORT if port is None else port,
        db=int(db),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        is_tls=parts.scheme == "rediss",
        is_cluster=parts.query != "",
    )


Client = coredis.Redis[bytes] | coredis.RedisCluster[bytes]


class RedisStore:
    """A `Store`."""

    def __init__(self, address: RedisAddress, *, max_rooms: int) -> None:
        """Make one that is connected to nothing yet.

        Args:
            address: where it is.
            max_rooms: that one source may have, at all nodes together.
        """
        self.address = address
        self._max_rooms = max_rooms
        self._client: Client | None = None

    async def check(self) -> None:
        """Raise what waiting would not mend; a Redis that does not answer now may do so later.

        Raises:
            StoreRefused: it does not take the password, is too old, or no Redis at all.
        """
        try:
            with trio.fail_after(CONNECT_S):
                async with self._open() as client:
                    await self._call(client, GUESSES, [b"ice:g"], [b"0", b"1", b"1", b"0", b"0", b"0"])
        except StoreRefused:
            raise
        except (BaseExceptionGroup, *_BROKEN) as error:
            self._say_what_lasts(error)

    async def perform(self, request: Request) -> Reply:
        """Do what is asked; see `Store`."""
        client = self._client
        if client is None:
            raise StoreAway(f"there is no connection to {self.address}")
        try:
            with trio.fail_after(REQUEST_S):
                return await self._perform(client, request)
        except _BROKEN as error:
            raise StoreAway(self._why(error)) from None

    @asynccontextmanager
    async def listen(self, node: int) -> AsyncGenerator[AsyncIterator[Change], None]:
        """Connect, and listen; see `Store`."""
        try:
            async with (
                self._open() as client,
                client.pubsub(
                    channels=[_channel(node)],
                    ignore_subscribe_messages=True,
                    retry_policy=NoRetryPolicy(),
                    subscription_timeout=CONNECT_S,
                    max_idle_seconds=QUIET_S,
                ) as heard,
            ):
                self._client = client
                yield _changes(heard)
        except StoreAway:
            raise
        except _BROKEN as error:
            raise StoreAway(self._why(error)) from None
        except BaseExceptionGroup as group:
            expected, others = group.split((StoreAway, *_BROKEN))
            if others is not None:
                raise others from None
            raise StoreAway(self._why(expected or group)) from None
        finally:
            self._client = None

    def _open(self) -> Client:
        address = self.address
        if address.is_cluster:
            return coredis.RedisCluster(
                address.host,
                address.port,
                username=address.username,
                password=address.password,
                ssl=address.is_tls,
                connect_timeout=CONNECT_S,
                stream_timeout=REQUEST_S,
                retry_policy=NoRetryPolicy(),
            )
        return coredis.Redis(
            address.host,
            address.port,
            address.db,
            username=address.username,
            password=address.password,
            ssl=address.is_tls,
            connect_timeout=CONNECT_S,
            stream_timeout=REQUEST_S,
            max_connections=CONNECTIONS,
            retry_policy=NoRetryPolicy(),
        )

    def _say_what_lasts(self, error: BaseException) -> None:
        """Raise StoreRefused where trying again would not help."""
        for leaf in _leaves(error):
            if isinstance(leaf, AuthenticationError | AuthorizationError):
                raise StoreRefused(
                    f"Redis at {self.address} does not take this user and password; put the right ones into the "
                    "engine's URL, or into ICEAGENT_ENGINE"
                ) from None
            if isinstance(leaf, UnknownCommandError):
                raise StoreRefused(f"what answers at {self.address} is older than Redis 7, or no Redis") from None
            if isinstance(leaf, ProtocolError | InvalidResponse):
                raise StoreRefused(f"what answers at {self.address} is no Redis") from None
            if isinstance(leaf, ClusterCrossSlotError | MovedError):
                raise StoreRefused(f"{self.address} is a cluster; add ?cluster=yes to the engine's URL") from None

    def _why(self, error: BaseException) -> str:
        """Return one sentence for people."""
        leaf = next(iter(_leaves(error)), error)
        if isinstance(leaf, StoreAway):
            return str(leaf)
        if isinstance(leaf, ResponseError):
            return f"Redis at {self.address} says: {str(leaf)[:200]}"
        return f"Redis at {self.address} does not answer ({type(leaf).__name__})"

    # Requests

    async def _perform(self, client: Client, request: Request) -> Reply:
        match request:
            case Lookup(session):
                time, answer = await self._ask(client, LOOKUP, [_session(session)], [])
                return Reply(time, answer.decode() if isinstance(answer, bytes) else None)
            case Load(key):
                return await self._load(client, key)
            case Prepare():
                return await self._prepare(client, request)
            case Step(change, nodes, keep_s):
                arguments = [encode_change(change), _ms(keep_s), *_flat(change), *map(_channel, nodes)]
                time, answer = await self._ask(client, STEP, _room(change.key), arguments)
                return Reply(time, answer == 1)
            case Retire(key, levels):
                for name, _ in levels:
                    await client.zrem(_usage(name), [key])
                return Reply(await self._time(client), None)
            case Beat():
                return await self._beat(client, request)

    async def _load(self, client: Client, key: str) -> Reply:
        answer = await self._call(client, LOAD, _room(key), [])
        time, (fields, entries) = _seconds(answer), answer[ANSWER:]
        known = {name.decode(): value for name, value in _pairs(fields)}
        version = known.pop("v", b"").decode()
        if not version:
            return Reply(time, EMPTY)
        log = {int(seq): value for seq, value in _pairs(entries)}
        try:
            state = read_state(version, known, log)
        except msgspec.DecodeError as error:
            raise StoreAway(f"what is stored in Redis at {self.address} is not ours: {error}") from None
        return Reply(time, state)

    async def _prepare(self, client: Client, request: Prepare) -> Reply:
        levels, sessions = request.levels, [_session(one) for one in request.sessions]
        if not self.address.is_cluster:
            return await self._prepare_some(client, request, levels, sessions)
        reply = await self._prepare_some(client, request, (), [])
        for level in levels:  # each in a slot of its own
            reply = await self._prepare_some(client, request, (level,), [])
            if not reply.answer:
                return reply
        for session in sessions:
            reply = await self._prepare_some(client, request, (), [session])
        return reply

    async def _prepare_some(self, client: Client, request: Prepare, levels: Levels, sessions: Sequence[bytes]) -> Reply:
        if not levels and not sessions:
            return Reply(await self._time(client), answer=True)
        keys = [*(_usage(name) for name, _ in levels), *sessions]
        most = [str(math.ceil(self._max_rooms * scale)).encode() for _, scale in levels]
        arguments = [str(len(levels)).encode(), request.key.encode(), _ms(request.keep_s), *most]
        time, answer = await self._ask(client, PREPARE, keys, arguments)
        return Reply(time, answer == 1)

    async def _beat(self, client: Client, request: Beat) -> Reply:
        await client.set(_node(request.node), b"1", px=int(1000 * NODE_S))
        alive = {other for other in request.others if await client.exists([_node(other)])}
        numbers = (request.guesses, GUESS_HALF_LIFE_S, GUESSES_S, request.node, request.waiting, int(1000 * NODE_S))
        answer = await self._call(client, GUESSES, [b"ice:g"], [str(number).encode() for number in numbers])
        amount, waiting = (float(part) if isinstance(part, bytes) else 0.0 for part in answer[ANSWER : ANSWER + 2])
        return Reply(_seconds(answer), Pulse(frozenset(alive), amount, int(waiting)))

    async def _time(self, client: Client) -> float:
        time, _ = await self._ask(client, LOOKUP, [b"ice:g:"], [])
        return time

    async def _ask(
        self, client: Client, script: str, keys: Sequence[bytes], arguments: Sequence[bytes]
    ) -> tuple[float, object]:
        answer = await self._call(client, script, keys, arguments)
        return _seconds(answer), answer[ANSWER] if len(answer) > ANSWER else None

    @staticmethod
    async def _call(client: Client, script: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> list[object]:
        try:
            answer = await client.evalsha(_DIGESTS[script], keys, arguments)
        except NoScriptError:
            answer = await client.eval(script, keys, arguments)
        if not isinstance(answer, list) or len(answer) < ANSWER:
            raise ProtocolError("a script has answered something else")
        return list[object](answer)


_DIGESTS = {
    script: sha1(script.encode(), usedforsecurity=False).hexdigest()
    for script in (LOOKUP, LOAD, PREPARE, STEP, GUESSES)
}


async def _changes(heard: AsyncIterator[PubSubMessage]) -> AsyncIterator[Change]:
    async for message in heard:
        data = message["data"]
        if not isinstance(data, bytes):
            continue
        try:
            yield decode_change(data)
        except msgspec.DecodeError:
            continue  # somebody else's
    raise StoreAway("the channel has ended")


def _flat(change: Change) -> list[bytes]:
    """Return a change as `STEP` reads it."""
    flat = [change.before.encode(), change.after.encode(), b"1" if change.is_whole else b"0", _length(change.put)]
    flat += [part for name, value in change.put.items() for part in (name.encode(), value)]
    flat += [_length(change.drop), *(name.encode() for name in change.drop), _length(change.entries)]
    flat += [part for seq, entry in change.entries.items() for part in (b"%d" % seq, entry)]
    return [*flat, _length(change.trimmed), *(b"%d" % seq for seq in change.trimmed)]


def _length(values: Collection[object]) -> bytes:
    return b"%d" % len(values)


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


def _pairs(flat: object) -> list[tuple[bytes, bytes]]:
    """Return the pairs of what HGETALL returns within a script."""
    parts = [part for part in flat if isinstance(part, bytes)] if isinstance(flat, list) else []
    return list(zip(parts[::2], parts[1::2], strict=True))


def _seconds(answer: Sequence[object]) -> float:
    seconds, microseconds = (int(part) if isinstance(part, bytes) else 0 for part in answer[:ANSWER])
    return seconds + microseconds / 1e6


def _ms(seconds: float) -> bytes:
    return str(int(1000 * seconds)).encode()


def _room(key: str) -> list[bytes]:
    return [f"ice:{{{key}}}:room".encode(), f"ice:{{{key}}}:log".encode()]


def _session(session: bytes) -> bytes:
    return b"ice:session:" + session.hex().encode()


def _usage(name: str) -> bytes:
    return b"ice:source:" + name.encode()


def _node(node: int) -> bytes:
    return f"ice:node:{node}".encode()


def _channel(node: int) -> bytes:
    return f"ice:changes:{node}".encode()
