"""The side of the targets: answers what the other side asks for, within what this side allows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import trio

from iceagent.link.config import MAX_STREAMS
from iceagent.net.logs import limited_logger
from iceagent.net.tasks import contained, open_background
from iceagent.session.establish import answer_within
from iceagent.session.raw import NamedStream
from iceagent.session.session import Session
from iceagent.session.streams import TUNNEL_SERVICE
from iceagent.tunnel import wire
from iceagent.tunnel.allow import AllowRule, is_allowed, parse_rules, reach_rules
from iceagent.tunnel.errors import FailedError
from iceagent.tunnel.listening import Listeners
from iceagent.tunnel.pump import RESET_TUNNEL, break_off, pump
from iceagent.tunnel.spec import AnyTarget, ListenTarget, PipeTarget, Target, TcpTarget, UdpTarget, UnixTarget
from iceagent.tunnel.targets import connect_target
from iceagent.tunnel.traffic import Traffic, traffic_to
from iceagent.tunnel.udp import serve_udp_flow

SLOT_PATIENCE_S = 20.0  # that a connection waits while `limit` others are served
REQUEST_TIMEOUT_S = 20.0  # from the opening of a stream to the end of its request

_log = limited_logger(__name__)

StreamHandler = Callable[[NamedStream, wire.StreamRequest, Target], Awaitable[None]]


@asynccontextmanager
async def serve_forwards(
    session: Session, allow: Iterable[str | AllowRule], *, limit: int = MAX_STREAMS
) -> AsyncIterator[None]:
    """Let the other side reach what `allow` names, while the body runs.

    Args:
        session: where the requests come from.
        allow: rules such as `tcp:localhost:22` or `listen:8080`, see `iceagent.tunnel.allow`; with none,
            everything is refused.
        limit: connections and flows at once.
    Raises:
        SpecError: a rule is malformed.
    """
    rules = parse_rules(allow)
    listeners = Listeners(session)
    underway: dict[int, trio.Event] = {}  # connections of which the other side wants to know when they have ended

    async def handle(stream: NamedStream, request: wire.StreamRequest, target: Target) -> None:
        reason = refusal(rules, target)
        if reason is not None:
            _log.warning("refused the other side's wish for %s", target)
            await answer_and_close(stream, wire.Answer("refused", reason))
        elif request.op == "check":
            await answer_and_close(stream, wire.OK)
        elif isinstance(target, ListenTarget):
            await listeners.serve(stream, target, request.listener)
        elif request.op == "done":
            if request.flow in underway:
                await underway[request.flow].wait()
            await answer_and_close(stream, wire.OK)
        else:
            with _noted(underway, request.flow):
                await serve_target(session, stream, request, target, traffic_to(session, str(target)))

    async with open_background() as nursery:
        nursery.start_soon(serve_requests, session, handle, limit)
        yield


@contextmanager
def _noted(underway: dict[int, trio.Event], flow: int) -> Iterator[None]:
    """Let `op: done` wait for the end of the body, where the other side has given the connection a number."""
    if not flow or flow in underway:
        yield
        return
    underway[flow] = trio.Event()
    try:
        yield
    finally:
        underway.pop(flow).set()


async def serve_requests(
    session: Session, handler: StreamHandler, limit: int = MAX_STREAMS, service: str = TUNNEL_SERVICE
) -> None:
    """Run `handler` for each request of the other side, at most `limit` at once, until the link ends."""
    slots = trio.Semaphore(limit)

    async def run(stream: NamedStream) -> None:
        if not await _take_slot(slots, limit):
            await answer_and_close(stream, wire.Answer("failed", f"it serves {limit} connections already", "busy"))
            return
        try:
            with contained("a connection of the other side's", lambda _: stream.reset(RESET_TUNNEL)):
                await _handle_stream(session, stream, handler)
        finally:
            slots.release()

    async with trio.open_nursery() as nursery:
        while True:
            try:
                stream = await session.streams.accept(service)
            except trio.BrokenResourceError:
                break
            nursery.start_soon(run, stream)  # the link bounds how many streams there are


async def _take_slot(slots: trio.Semaphore, limit: int) -> bool:
    """Wait for a slot, but not for ever: the connection that needs it waits, too."""
    try:
        slots.acquire_nowait()
    except trio.WouldBlock:
        _log.warning("all %d connections at once are taken; further ones wait up to %g s", limit, SLOT_PATIENCE_S)
        with trio.move_on_after(SLOT_PATIENCE_S):
            await slots.acquire()
            return True
        return False
    return True


async def _handle_stream(session: Session, stream: NamedStream, handler: StreamHandler) -> None:
    """Read the request and hand it on; whatever goes wrong with one stream stays with that stream."""
    target: Target | None = None
    try:
        async with answer_within(session, REQUEST_TIMEOUT_S):
            request = await wire.receive_request(stream)
        target = request.target()
        await handler(stream, request, target)
    except FailedError as error:
        _log.warning("cannot reach %s: %s", target, error)
        await answer_and_close(stream, wire.Answer("failed", str(error), error.cause))
    except wire.WireError as error:
        _log.warning("%s", error)
        stream.reset(RESET_TUNNEL)
    except trio.TooSlowError:
        stream.reset(RESET_TUNNEL)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        _log.info("a connection to %s broke off: %s", target, error)
        stream.reset(RESET_TUNNEL)


async def answer_and_close(stream: NamedStream, answer: wire.Answer) -> None:
    """Send an answer after which nothing follows, and close the stream."""
    try:
        await wire.send_answer(stream, answer)
        await stream.aclose()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the other side no longer wants to know


def refusal(rules: Sequence[AllowRule], target: Target) -> str | None:
    """Return why a target is refused, None if it is allowed. The text is for the other side's user: what is allowed."""
    if isinstance(target, PipeTarget):
        return "it offers forwards, not a pipe; use: iceagent forward -L ..."
    reach = reach_rules(rules)
    if is_allowed(rules, target) or (reach and isinstance(target, AnyTarget)):
        return None
    if isinstance(target, ListenTarget):
        reach = tuple(rule for rule in rules if rule not in reach)
        if not reach:
            return "it listens for nobody; start it with --allow-remote-listen PORT"
    if not reach:
        return "it allows nothing"
    return f"it allows only {', '.join(map(str, reach))}"


async def serve_target(
    session: Session, stream: NamedStream, request: wire.StreamRequest, target: Target, traffic: Traffic
) -> None:
    """Answer a request for a target, which must be allowed, and carry what follows.

    Raises:
        FailedError: the target cannot be reached.
        WireError: it is nothing that a connection leads to.
        trio.BrokenResourceError, trio.ClosedResourceError: either side broke.
    """
    with traffic.connection():
        match target:
            case UdpTarget():
                await serve_udp_flow(session, stream, target, request.flow, traffic)
            case TcpTarget() | UnixTarget():
                await _serve_connection(stream, target, traffic)
            case _:
                raise wire.WireError(f"{target} was asked for where only forwards are served")


async def _serve_connection(stream: NamedStream, target: TcpTarget | UnixTarget, traffic: Traffic) -> None:
    near = await connect_target(target)
    try:
        await wire.send_answer(stream, wire.OK)
    except BaseException:
        break_off(near)
        raise
    _log.debug("connected to %s", target)
    await pump(near, stream, traffic=traffic)
