"""`iceagent.serve_joiners`: a listener that stays, for programs: whoever comes gets a link of its own."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from iceagent.agent import AgentConfig
from iceagent.core.checked import checked
from iceagent.errors import IceError, LocalError
from iceagent.net import Network
from iceagent.net.tasks import open_background
from iceagent.session.pairing.identity import Identity
from iceagent.session.pairing.words import Verify
from iceagent.session.progress import Progress
from iceagent.session.relay import Relays
from iceagent.session.standing import MOST_PEERS, StandingListener
from iceagent.session.within import on_network
from iceagent.tunnel.peer import Invitation, Link

_log = logging.getLogger(__name__)


@checked
async def serve_joiners(
    handler: Callable[[Link], Awaitable[object]],
    *,
    on_code: Callable[[Invitation], object] | None = None,
    peers: Sequence[str] = (),
    most_peers: int = MOST_PEERS,
    on_end: Callable[[IceError], object] | None = None,
    relay: Relays = None,
    config: AgentConfig | None = None,
    verify: Verify | None = None,
    identity: Identity | None = None,
    network: Network | None = None,
) -> None:
    """Serve one joiner after the other, many at once, for ever: cancel it to end all of their links.

    Args:
        handler: called with the link of each, in a task of its own; the link ends as it returns.
        on_code: called with each code as it is made, the next as soon as somebody has come with it, or guessed wrong.
        peers: names of paired peers, who come without a code, each as often and with as many processes as it likes.
        most_peers: how many links there may be at once; while there are, no code is made.
        on_end: called with why nobody came of a code, or how a link ended that did not end well; None logs it.
        relay, config, verify: as for `iceagent.invite`.
        identity: ours, for peers; None for this user's.
        network: as for `iceagent.invite`.
    Raises:
        LocalError: neither codes nor peers are asked for, or as for `iceagent.invite`.
        RelayError, VersionMismatch: the relay cannot be used from the start; later that is waited out.
        UnknownPeer, IdentityError, PeerNotPinned: no peer has such a name, or not any more, or it is somebody else.
    """
    if on_code is None and not peers:
        raise LocalError("nobody could come: give on_code for codes, or the names of peers")
    config = on_network(config, network)
    attempt = _Attempt(handler, on_code or (lambda _: None), on_end or _log_end)
    listener = StandingListener(Link, attempt.open, most_peers=most_peers, config=config, verify=verify)
    async with open_background() as waiting:
        for name in peers:
            waiting.start_soon(partial(listener.run_peer, name, relay, identity=identity))
        if on_code is not None:
            await listener.run_codes(relay)
        await trio.sleep_forever()


class _Attempt:
    """What is done about one of them."""

    def __init__(
        self,
        handler: Callable[[Link], Awaitable[object]],
        on_code: Callable[[Invitation], object],
        on_end: Callable[[IceError], object],
    ) -> None:
        self.progress = Progress()
        self._handler = handler
        self._on_code = on_code
        self._on_end = on_end

    @asynccontextmanager
    async def open(self, _: str | None) -> AsyncIterator[_Attempt]:
        """Yield what is done about another."""
        yield _Attempt(self._handler, self._on_code, self._on_end)

    def show_code(self, invitation: Invitation) -> None:
        """Give it to whom it concerns."""
        self._on_code(invitation)

    async def serve(self, session: Link) -> None:
        """Use it; what the handler raises ends this link alone."""
        try:
            await self._handler(session)
        except IceError:
            raise
        except Exception as error:
            _log.exception("the handler of a joiner's link raised an error, which ends that link")
            raise LocalError(f"the handler of the link raised {type(error).__name__}") from error

    def report_end(self, error: IceError) -> None:
        """Report it."""
        self._on_end(error)


def _log_end(error: IceError) -> None:
    _log.info("a joiner's session: %s", error)
