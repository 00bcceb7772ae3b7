"""The store of the shared engine in Redis 7 or Valkey: one script for each request, and a channel for each node.

Keys of a room share a hash tag, so that a cluster keeps them together. A script is done as a whole or not at all, also
in the append-only file. What it has stored it publishes to the nodes that members are connected to: each listens on one
channel of its own, so that a room costs no subscription; in a cluster these messages go to all its servers.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from traceback import walk_tb
from typing import Final

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
    WrongTypeError,
)
from coredis.response.types import PubSubMessage
from coredis.retry import NoRetryPolicy

from icesignal.engines.redis_scripts import DIGESTS, GUESSES, LOAD, LOOKUP, PAY, PREPARE, STEP
from icesignal.engines.redis_url import RedisAddress
from icesignal.engines.shared.engine import StoreAway, StoreRefused
from icesignal.engines.shared.node import NODE_S
from icesignal.engines.shared.requests import (
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
    keep_budgets_s,
)
from icesignal.engines.shared.state import EMPTY, Change, decode_change, encode_change, read_state
from icesignal.nameplates import GUESS_HALF_LIFE_S
from icesignal.sources import Balance, Levels

logger = logging.getLogger("icesignal.engine")
CONNECT_S: Final = 3.0
REQUEST_S: Final = 5.0  # within the patience of a client, twice
CONNECTIONS: Final = 16
QUIET_S: Final = 5.0  # a channel that is silent is asked for a sign of life
GUESSES_S: Final = 3_600  # after twelve half-lives there is nothing to be kept
ANSWER: Final = 2  # at least: every script begins with seconds and microseconds of the server's time
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
        self._has_told_unreadable = False
        self._has_told_eviction = False

    async def check(self) -> None:
        """Raise what waiting would not mend; a Redis that does not answer now may do so later.

        Raises:
            StoreRefused: it does not take the password, is too old, or no Redis at all.
        """
        try:
            with trio.fail_after(CONNECT_S):
                async with self._open() as client:
                    await self._call(client, GUESSES, [b"ice:g"], [b"0", b"1", b"1", b"0", b"0", b"0"])
                    await client.publish(_channel(0), b"")  # who may not subscribe may not do this either
        except StoreRefused:
            raise
        except Exception as error:
            if not all(map(_is_theirs, _leaves(error))):
                raise
            self._say_what_lasts(error)

    async def perform(self, request: Request) -> Reply:
        """Do what is asked; see `Store`."""
        client = self._client
        if client is None:
            raise StoreAway(f"there is no connection to {self.address}")
        try:
            with trio.fail_after(REQUEST_S):
                return await self._perform(client, request)
        except Exception as error:
            if not _is_theirs(error):
                raise
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
                await self._look_at_memory(client)
                self._client = client
                yield _changes(heard)
        except StoreAway:
            raise
        except BaseExceptionGroup as group:
            expected, others = group.split(lambda error: isinstance(error, StoreAway) or _is_theirs(error))
            if others is not None:
                raise others from None
            raise StoreAway(self._why(expected or group)) from None
        except Exception as error:
            if not _is_theirs(error):
                raise
            raise StoreAway(self._why(error)) from None
        finally:
            self._client = None

    async def _look_at_memory(self, client: Client) -> None:
        """Warn of a Redis that throws rooms away where it has no place; once."""
        if self._has_told_eviction:
            return
        try:
            memory = await client.info(b"memory")
        except ResponseError:
            return  # this user may not ask
        policy = memory.get("maxmemory_policy", "noeviction")
        if memory.get("maxmemory") and policy != "noeviction":
            self._has_told_eviction = True
            logger.warning(
                "Redis at %s throws away what it has no place for, rooms among it (maxmemory-policy %s); set it to "
                "noeviction",
                self.address,
                policy,
            )

    def _open(self) -> Client:
        address = self.address
        # coredis' own context looks at no name. This one takes what SSL_CERT_FILE names for authorities, too.
        context = ssl.create_default_context() if address.is_tls else None
        if address.is_cluster:
            return coredis.RedisCluster(
                address.host,
                address.port,
                username=address.username,
                password=address.password,
                ssl_context=context,
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
            ssl_context=context,
            connect_timeout=CONNECT_S,
            stream_timeout=REQUEST_S,
            max_connections=CONNECTIONS,
            retry_policy=NoRetryPolicy(),
        )

    def _say_what_lasts(self, error: BaseException) -> None:
        """Raise StoreRefused where trying again would not help."""
        for leaf in _leaves(error):
            if isinstance(leaf, AuthenticationError):
                raise StoreRefused(
                    f"Redis at {self.address} does not take this user and password; put the right ones into the "
                    "engine's URL, or into ICEAGENT_ENGINE"
                ) from None
            if isinstance(leaf, ssl.SSLCertVerificationError):
                raise StoreRefused(self._why_distrusted(leaf)) from None
            if isinstance(leaf, AuthorizationError):
                raise StoreRefused(
                    f"Redis at {self.address} lets this user do too little ({_shown(leaf)}); docs/operate.md has what "
                    "it must be allowed"
                ) from None
            if isinstance(leaf, UnknownCommandError):
                raise StoreRefused(f"what answers at {self.address} is older than Redis 7, or no Redis") from None
            if isinstance(leaf, ProtocolError | InvalidResponse):
                raise StoreRefused(f"what answers at {self.address} is no Redis") from None
            if isinstance(leaf, ClusterCrossSlotError | MovedError):
                raise StoreRefused(f"{self.address} is a cluster; add ?cluster=yes to the engine's URL") from None

    def _why(self, error: BaseException) -> str:
        """Return one sentence for people."""
        leaves = _leaves(error)
        for leaf in leaves:
            if isinstance(leaf, ssl.SSLCertVerificationError):
                return self._why_distrusted(leaf)
        leaf = next(iter(leaves), error)
        if isinstance(leaf, StoreAway):
            return str(leaf)
        if isinstance(leaf, ResponseError):
            return f"Redis at {self.address} says: {_shown(leaf)}"
        return f"Redis at {self.address} does not answer ({type(leaf).__name__})"

    def _why_distrusted(self, error: ssl.SSLCertVerificationError) -> str:
        return (
            f"the certificate of Redis at {self.address} is not to be trusted ({error.verify_message}); one of an "
            "authority of your own is, if SSL_CERT_FILE names that"
        )

    # Requests

    async def _perform(self, client: Client, request: Request) -> Reply:
        """Do what is asked. What is wrong with one room's keys is no fault of the store's."""
        try:
            return await self._perform_readable(client, request)
        except (msgspec.DecodeError, ValueError, WrongTypeError) as error:
            if not isinstance(request, Load | Step | Lookup):
                raise
            self._tell_unreadable(error)
        return Reply(await self._time(client), None if isinstance(request, Lookup) else Unreadable())

    def _tell_unreadable(self, error: Exception) -> None:
        if not self._has_told_unreadable:
            self._has_told_unreadable = True
            logger.warning(
                "a room that is stored in Redis at %s is not one of this version, and who is in it is sent away; "
                "have all nodes run the newest version (%s; said once)",
                self.address,
                error,
            )

    async def _perform_readable(self, client: Client, request: Request) -> Reply:
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
                await self._retire(client, key, levels)
                return Reply(await self._time(client), None)
            case Beat():
                return await self._beat(client, request)
            case Pay():
                return await self._pay(client, request)

    async def _load(self, client: Client, key: str) -> Reply:
        answer = await self._call(client, LOAD, _room(key), [])
        time, (fields, entries) = _seconds(answer), answer[ANSWER:]
        known = {name.decode(): value for name, value in _pairs(fields)}
        version = known.pop("v", b"").decode()
        if not version:
            return Reply(time, EMPTY)
        log = {int(seq): value for seq, value in _pairs(entries)}
        return Reply(time, read_state(version, known, log))

    async def _prepare(self, client: Client, request: Prepare) -> Reply:
        levels, sessions = request.levels, [_session(one) for one in request.sessions]
        if not self.address.is_cluster:
            return await self._prepare_some(client, request, levels, sessions)
        reply = await self._prepare_some(client, request, (), [])
        for at, level in enumerate(levels):  # each in a slot of its own
            reply = await self._prepare_some(client, request, (level,), [])
            if not reply.answer:
                await self._retire(client, request.key, levels[:at])
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

    @staticmethod
    async def _retire(client: Client, key: str, levels: Levels) -> None:
        for name, _ in levels:
            await client.zrem(_usage(name), [key])

    async def _beat(self, client: Client, request: Beat) -> Reply:
        before = await client.set(_node(request.node), b"1", px=int(1000 * NODE_S), get=True)
        alive = {other for other in request.others if await client.exists([_node(other)])}
        numbers = (request.guesses, GUESS_HALF_LIFE_S, GUESSES_S, request.node, request.waiting, int(1000 * NODE_S))
        answer = await self._call(client, GUESSES, [b"ice:g"], [str(number).encode() for number in numbers])
        amount, waiting = (float(part) if isinstance(part, bytes) else 0.0 for part in answer[ANSWER : ANSWER + 2])
        return Reply(_seconds(answer), Pulse(frozenset(alive), amount, int(waiting), is_known=before is not None))

    async def _pay(self, client: Client, request: Pay) -> Reply:
        if not self.address.is_cluster:
            return await self._pay_some(client, request)
        left: list[tuple[float, ...]] = []
        back = tuple(replace(one, cost=-one.cost, is_needed=False) for one in request.charges)
        for number, level in enumerate(request.levels):  # each in a slot of its own
            reply = await self._pay_some(client, Pay((level,), request.charges))
            if not isinstance(reply.answer, Balance) or not reply.answer.is_paid:
                for paid in request.levels[:number]:
                    await self._pay_some(client, Pay((paid,), back))
                known = reply.answer.left if isinstance(reply.answer, Balance) else ()
                unknown = (math.inf,) * len(request.charges)
                others = len(request.levels) - number - len(known)
                return Reply(reply.time, Balance(False, (*(unknown for _ in left), *known, *(unknown,) * others)))
            left += reply.answer.left
        return Reply(await self._time(client), Balance(True, tuple(left)))

    async def _pay_some(self, client: Client, request: Pay) -> Reply:
        arguments: list[object] = [len(request.charges), int(1000 * keep_budgets_s(request.charges))]
        for one in request.charges:
            arguments += [one.kind, one.cost, int(one.is_needed), one.rate.burst, one.rate.per_s]
        arguments += [scale for _, scale in request.levels]
        keys = [b"ice:budget:" + name.encode() for name, _ in request.levels]
        answer = await self._call(client, PAY, keys, [str(one).encode() for one in arguments])
        flat = [float(part) for part in answer[ANSWER + 1 :] if isinstance(part, bytes)]
        count = len(request.charges)
        left = tuple(tuple(flat[at : at + count]) for at in range(0, len(flat), count))
        return Reply(_seconds(answer), Balance(answer[ANSWER] == 1, left))

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
            answer = await client.evalsha(DIGESTS[script], keys, arguments)
        except NoScriptError:
            answer = await client.eval(script, keys, arguments)
        if not isinstance(answer, list) or len(answer) < ANSWER:
            raise ProtocolError("a script has answered something else")
        return list[object](answer)


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


def _is_theirs(error: BaseException) -> bool:
    """Return whether something is wrong with Redis or the way to it: not all that coredis raises has a public name."""
    if isinstance(error, BaseExceptionGroup):
        return False  # its parts are asked about
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return isinstance(error, _BROKEN) or bool(frames and frames[-1].f_globals["__name__"].startswith("coredis."))


def _shown(error: Exception) -> str:
    return "".join(one if one.isprintable() else " " for one in str(error)[:200])


def _leaves(error: BaseException) -> list[BaseException]:
    """Return what has gone wrong, what it comes of after it."""
    if not isinstance(error, BaseExceptionGroup):
        return [error, *(() if error.__cause__ is None else _leaves(error.__cause__))]
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
