"""The side that listens for the other (`-R`): a socket here whose every connection goes back as a stream.

The other side asks with a stream of its own. The socket is open for as long as that stream is, and not longer: it ends
with the forward, with the session, and with either process.
"""

from __future__ import annotations

import trio

from iceagent.net.logs import limited_logger
from iceagent.net.tasks import open_background
from iceagent.session.raw import NamedStream
from iceagent.session.session import Session
from iceagent.tunnel import wire
from iceagent.tunnel.errors import BindError
from iceagent.tunnel.forward import HeldForward, hold_forward
from iceagent.tunnel.pump import RESET_TUNNEL
from iceagent.tunnel.spec import BackTarget, ForwardSpec, ListenTarget
from iceagent.tunnel.traffic import Traffic, shown_traffic

MAX_LISTENERS = 64  # of a session, open at once: each has a descriptor or two, and a port that others cannot have

_log = limited_logger(__name__)


class Listeners:
    """The sockets that the other side of a session has open here."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._count = 0

    async def serve(self, stream: NamedStream, wanted: ListenTarget, number: int) -> None:
        """Open what is wanted, which must be allowed, and carry its connections until the stream ends.

        Raises:
            trio.BrokenResourceError: the stream broke.
        """
        if self._count >= MAX_LISTENERS:
            _log.warning("the other side has %d listeners here already; it gets no %s", self._count, wanted)
            await self._decline(stream, f"it listens on {MAX_LISTENERS} sockets for this session already")
            return
        self._count += 1
        try:
            spec = ForwardSpec(wanted.bind, BackTarget(number, str(wanted), wanted.udp))
            async with hold_forward(spec) as held:
                await self._run(stream, held)
        except BindError as error:
            _log.warning("the other side gets no listener: %s", error)
            await self._decline(stream, str(error))
            return
        except BaseException:
            stream.reset(RESET_TUNNEL)  # the other side has to see that nobody listens any more
            raise
        finally:
            self._count -= 1
        await stream.aclose()  # the port is free by now, and the other side may ask for it again

    async def _decline(self, stream: NamedStream, reason: str) -> None:
        await wire.send_answer(stream, wire.Answer("failed", reason))
        await stream.aclose()

    async def _run(self, stream: NamedStream, held: HeldForward) -> None:
        shown = " and ".join(held.binds)
        traffic = Traffic(str(held.spec.target), held.binds)
        async with open_background() as nursery:
            nursery.start_soon(held.run, self._session, traffic)
            await wire.send_answer(stream, wire.Answer("ok", binds=held.binds))
            _log.info("listening on %s for the other side", shown)
            with shown_traffic(self._session, traffic):
                await _until_closed(stream)
        _log.info("no longer listening on %s for the other side", shown)


async def _until_closed(stream: NamedStream) -> None:
    """Until the other side closes the stream; what it says on it meanwhile means nothing."""
    said = b" "
    while said:
        await trio.lowlevel.checkpoint()  # also where bytes are always there already
        said = await stream.receive_some(wire.MAX_FRAME)
