"""`iceagent.invite`, `iceagent.join` and the `Link` they yield: a session, with forwards as methods.

They live here, and not in `iceagent.session`, because imports point downwards only: a forward is made of a session,
so a session cannot know of forwards. `Link` adds forwards to `Session`; the session layer makes
sessions of the class that it is given.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from iceagent.agent import AgentConfig
from iceagent.core.checked import checked
from iceagent.errors import LocalError
from iceagent.net import Network
from iceagent.session import connect
from iceagent.session.pairing.identity import Identity
from iceagent.session.pairing.words import Verify
from iceagent.session.progress import Progress
from iceagent.session.relay import Relays
from iceagent.session.session import Session
from iceagent.session.within import on_network
from iceagent.tunnel.allow import AllowRule
from iceagent.tunnel.forward import Forward, forward_dynamic, forward_local
from iceagent.tunnel.remote import forward_remote
from iceagent.tunnel.serve import serve_forwards
from iceagent.tunnel.spec import ForwardSpec

if TYPE_CHECKING:
    from iceagent.files.progress import FileProgress
    from iceagent.files.receiver import Accept
    from iceagent.files.sender import Transferred


class Link(Session):
    """A session to the other side: streams, datagrams and forwards, over the best path there is."""

    @checked
    def forward_local(self, spec: str | ForwardSpec) -> AbstractAsyncContextManager[Forward]:
        """Forward a local socket to one of the other side's, while the body of `async with` runs.

        Args:
            spec: as ssh's `-L`: `2222:localhost:22`, `5353:192.0.2.1:53/udp`, `unix:/tmp/a:unix:/run/b`.
        Raises:
            SpecError, BindError, RefusedError, FailedError: see `iceagent.tunnel.forward.forward_local`.
        """
        return forward_local(self, spec)

    @checked
    def forward_remote(self, spec: str | ForwardSpec) -> AbstractAsyncContextManager[Forward]:
        """Have the other side listen, and forward what connects there to a socket here, while `async with` runs.

        Args:
            spec: as ssh's `-R`: `8080:localhost:80`, where 8080 is over there; with `/udp` and `unix:PATH`, too.
        Raises:
            SpecError, RefusedError, FailedError: see `iceagent.tunnel.remote.forward_remote`.
        """
        return forward_remote(self, spec)

    @checked
    def forward_dynamic(self, spec: str | ForwardSpec) -> AbstractAsyncContextManager[Forward]:
        """Take programs at a local port wherever they want on the other side, while the body of `async with` runs.

        Args:
            spec: as ssh's `-D`: `1080`, `[::1]:1080`, or `unix:PATH`. Programs speak SOCKS 5, 4 or 4a, or HTTP CONNECT.
        Raises:
            SpecError, BindError, RefusedError, FailedError: see `iceagent.tunnel.forward.forward_dynamic`.
        """
        return forward_dynamic(self, spec)

    @checked
    def serve_forwards(self, allow: Iterable[str | AllowRule]) -> AbstractAsyncContextManager[None]:
        """Let the other side reach what `allow` names, while the body of `async with` runs.

        Args:
            allow: rules such as `tcp:localhost:22`, `unix:/run/app.sock` or `any`; and `listen:8080` or `listen:any`
                for what it may have opened here (`forward_remote`).
        Raises:
            SpecError: a rule is malformed.
        """
        return serve_forwards(self, allow)

    @checked
    async def send_files(
        self, paths: Sequence[str | os.PathLike[str]], *, progress: FileProgress | None = None
    ) -> Transferred:
        """Send files and folders to the other side, which receives; return once they are verified and written there.

        What an earlier attempt has left there is gone on with.

        Args:
            paths: of files and folders here.
            progress: is kept up to date.
        Raises:
            LocalIOError: a path cannot be read.
            TransferRefused, TransferFailed: the other side does not want them, or could not write.
            PeerLeft, PeerLost: the other side went away.
        """
        from iceagent.files.sender import send_files

        return await send_files(self, paths, progress)

    @checked
    async def receive_files(
        self,
        into: str | os.PathLike[str] = ".",
        *,
        overwrite: bool = False,
        accept: Accept | None = None,
        progress: FileProgress | None = None,
    ) -> Transferred:
        """Receive what the other side sends; return once it is verified and written, and the other side knows.

        Args:
            into: the folder below which everything is written; made if it is not there.
            overwrite: whether files that are there and differ may be overwritten, if `accept` does not decide.
            accept: is asked before anything is written; True also allows what would be overwritten.
            progress: is kept up to date.
        Raises:
            LocalIOError: there is no room, or this machine cannot write.
            TransferRefused: it was not accepted here.
            TransferFailed: the other side does not send, or broke the protocol.
            PeerLeft, PeerLost: the other side went away.
        """
        from iceagent.files.receiver import receive_files

        return await receive_files(self, into, overwrite=overwrite, accept=accept, progress=progress)


Invitation = connect.Invitation[Link]


@checked
@asynccontextmanager
async def invite(
    *,
    relay: Relays = None,
    config: AgentConfig | None = None,
    progress: Progress | None = None,
    verify: Verify | None = None,
    network: Network | None = None,
) -> AsyncIterator[Invitation]:
    """Make a code that one other side may use to reach this one.

    Args:
        relay: URL of the relay where the two meet, `ws://HOST:PORT`, or several: the first that answers serves, and the
            code names it. None: those of `ICEAGENT_RELAY`, else one is started here and the code carries its address.
        config: for the agent; the relay's ICE servers are added to it. None for the defaults.
        progress: is informed of what is being waited for, until the session is open.
        verify: called with five words before anything is opened, which are the same on the other side, or somebody
            sits between; raises `WordsRefused` if they are not.
        network: where everything happens, the way to the relay too: a host of `iceagent.vnet` in tests, with no real
            socket (docs/vnet.md); None for `config.network`, else this machine's.
    Raises:
        RelayError: the relay cannot be reached.
    """
    config = on_network(config, network)
    async with connect.invite(Link, relay=relay, config=config, progress=progress, verify=verify) as invitation:
        yield invitation


@checked
@asynccontextmanager
async def join(
    code: str | None = None,
    *,
    peer: str | None = None,
    relay: Relays = None,
    config: AgentConfig | None = None,
    progress: Progress | None = None,
    verify: Verify | None = None,
    identity: Identity | None = None,
    timeout_s: float | None = None,
    network: Network | None = None,
) -> AsyncIterator[Link]:
    """Reach the other side with the code it made.

    Args:
        code: such as `7-guitar-ozone`, or `7-guitar-ozone@192.0.2.1:41234`.
        relay: URL of the relay, or several, of which the code names one; None: the address in the code, else
            `ICEAGENT_RELAY`.
        config: for the agent; the relay's ICE servers are added to it. None for the defaults.
        progress: is informed of what is being waited for, until the session is open.
        verify: as for `invite`.
        peer: the name of a paired peer, instead of a code; it waits in `iceagent.listen`, or will.
        identity: ours, for a peer; None for this user's.
        timeout_s: how long to wait for a peer, seconds; None without limit.
        network: as for `invite`.
    Raises:
        UnknownPeer, IdentityError, PeerNotPinned: no peer has this name, or it is somebody else (docs/pairing.md).
        NobodyCame: `timeout_s` has passed.
        RelayMissing: neither the arguments nor the code nor the environment name a relay.
        RelayError: the relay cannot be reached.
        CodeError: the code is wrong, expired or in use.
        PeerLeft: the other side came, and left again.
        NoPath, NoLink: no network path leads to the other side, or no link came about over it; `verdict` says more.
    """
    if (code is None) == (peer is None):
        raise LocalError("join a code or a paired peer: one of the two")
    config = on_network(config, network)
    session = (
        connect.join(Link, code, relay=relay, config=config, progress=progress, verify=verify)
        if code is not None
        else connect.meet_peer(
            Link,
            peer or "",
            "joiner",
            relay=relay,
            config=config,
            progress=progress,
            verify=verify,
            identity=identity,
            timeout_s=timeout_s,
        )
    )
    async with session as link:
        yield link


@checked
@asynccontextmanager
async def listen(
    peer: str,
    *,
    relay: Relays = None,
    config: AgentConfig | None = None,
    progress: Progress | None = None,
    verify: Verify | None = None,
    identity: Identity | None = None,
    timeout_s: float | None = None,
    network: Network | None = None,
) -> AsyncIterator[Link]:
    """Wait for a paired peer, which comes with `join(peer=...)`, and yield the session with it.

    Args:
        peer: its name here.
        relay: URL of the relay where the two meet, or several, at all of which it is waited for; None: those of
            `ICEAGENT_RELAY`.
        config, progress, verify: as for `invite`.
        identity: ours; None for this user's.
        timeout_s: how long to wait, seconds; None without limit.
        network: as for `invite`.
    Raises:
        UnknownPeer, IdentityError, PeerNotPinned: no peer has this name, or it is somebody else (docs/pairing.md).
        NobodyCame: `timeout_s` has passed.
        RelayMissing, RelayError: no relay is named, or none can be reached.
        PeerLeft, NoPath, NoLink: as for `join`.
    """
    config = on_network(config, network)
    async with connect.meet_peer(
        Link,
        peer,
        "inviter",
        relay=relay,
        config=config,
        progress=progress,
        verify=verify,
        identity=identity,
        timeout_s=timeout_s,
    ) as link:
        yield link
