"""Two sides exchange what they found about their networks, inside the sealed channel:

    {"type": "netcheck", "version": 1, "families": [{"family": 4, "mapping": str, "filtering": str,
     "external_hosts": [str], "maps_ports": bool, "hairpin": bool or nil}], "relays": ["udp", "tcp", "tls"]}

Unknown keys, and values of a later version, are ignored or taken for `unknown`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from enum import Enum
from typing import Annotated, Any, Final, TypeVar

import icesignal
import msgspec
import trio

from iceagent.core.discovery import FamilyView, Filtering, MappingBehaviour, SideView
from iceagent.errors import RemoteError
from iceagent.session.errors import NobodyCame, PeerLeft, VersionMismatch, shown_version
from iceagent.session.relay import RelayPlace, Relays, open_client, open_relay, parse_code, relay_for, signal_errors

VERSION: Final = 1
PATIENCE_S: Final = 60.0  # for the other side's own check, which takes some ten seconds
LINGER_S: Final = 2.0  # for our last message to leave before the conversation is ended
_TRANSPORTS: Final = ("udp", "tcp", "tls")
_OTHER_COMMAND: Final = (
    "the other side does not run a check: it runs another command of iceagent. Run `iceagent netcheck --invite` there"
)

E = TypeVar("E", bound=Enum)


class FamilyMessage(msgspec.Struct, frozen=True):
    """One IP version, as it is sent."""

    family: int
    mapping: Annotated[str, msgspec.Meta(max_length=64)] = "unknown"
    filtering: Annotated[str, msgspec.Meta(max_length=64)] = "unknown"
    external_hosts: Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(max_length=16)] = (
        msgspec.field(default_factory=list)
    )
    maps_ports: bool = False
    hairpin: bool | None = None


class NetcheckMessage(msgspec.Struct, frozen=True):
    """What one side sends."""

    families: Annotated[list[FamilyMessage], msgspec.Meta(max_length=8)] = msgspec.field(default_factory=list)
    relays: Annotated[list[Annotated[str, msgspec.Meta(max_length=16)]], msgspec.Meta(max_length=8)] = msgspec.field(
        default_factory=list
    )


class Waiting:
    """A code that waits for the other side of a check."""

    def __init__(self, signaling: icesignal.Invitation, place: RelayPlace, relay_url: str) -> None:
        self.relay_url = relay_url
        self.is_own_relay = place.address is not None
        self._signaling = signaling

    @property
    def code(self) -> str:
        """What the other side has to be given."""
        return self._signaling.code

    async def wait_peer(self, timeout_s: float | None = None) -> icesignal.SealedChannel:
        """Wait for the other side.

        Raises:
            NobodyCame: `timeout_s` has passed.
            CodeError, RelayError: see `iceagent.session.errors`.
        """
        channel: icesignal.SealedChannel | None = None
        with trio.move_on_after(float("inf") if timeout_s is None else timeout_s), signal_errors():
            channel = await self._signaling.wait_peer()
        if channel is None:
            raise NobodyCame(f"nobody came within {timeout_s:g} s")
        return channel


@asynccontextmanager
async def netcheck_invite(*, relay: Relays = None) -> AsyncIterator[Waiting]:
    """Yield a code for the other side of a check; without a relay one is started here.

    Raises:
        RelayError: the relay cannot be reached.
    """
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(open_relay(relay))
        with signal_errors():
            client = await stack.enter_async_context(open_client(place.urls))
            signaling = await stack.enter_async_context(icesignal.open_invitation(client, address=place.address))
        yield Waiting(signaling, place, place.shown if place.address else client.url)


@asynccontextmanager
async def netcheck_join(code: str, *, relay: Relays = None) -> AsyncIterator[tuple[icesignal.SealedChannel, str]]:
    """Yield the channel to the side that made the code, and the relay's URL.

    Raises:
        RelayMissing, RelayError, CodeError, NobodyCame: see `iceagent.session.errors`.
    """
    parsed = parse_code(code)
    url = relay_for(parsed, relay)
    async with AsyncExitStack() as stack:
        with signal_errors():
            client = await stack.enter_async_context(open_client(url))
            channel = await stack.enter_async_context(icesignal.open_join(client, parsed))
        yield channel, url


async def compare(channel: icesignal.SealedChannel, ours: SideView) -> SideView:
    """Send the other side what this one found, and return what that one found.

    Raises:
        PeerLeft: it is gone, or says nothing for a minute.
        RemoteError: it runs another command.
        VersionMismatch: it speaks another version.
        RelayError: the relay went away.
    """
    with signal_errors():
        await channel.send(to_message(ours))
        with trio.move_on_after(PATIENCE_S):
            while True:
                try:
                    found = parse_untrusted(await channel.receive())
                except icesignal.PeerLeft as error:
                    raise PeerLeft(f"the other side left before it sent what it found: {error}") from error
                if found is not None:
                    await _say_goodbye(channel)
                    return found
    raise PeerLeft(f"the other side has sent nothing for {PATIENCE_S:g} s")


async def _say_goodbye(channel: icesignal.SealedChannel) -> None:
    """Wait until the other side has heard us, too: it leaves then, or says so; an older one is waited for briefly."""
    with trio.move_on_after(LINGER_S), suppress(icesignal.SignalError):
        await channel.send({"type": "netcheck-done"})
        while (await channel.receive()).get("type") != "netcheck-done":
            pass


def to_message(view: SideView) -> dict[str, Any]:
    """Return what is sent of a side."""
    families = [
        FamilyMessage(
            family,
            one.mapping.value,
            one.filtering.value,
            list(one.external_hosts[:16]),
            one.maps_ports,
            one.hairpin,
        )
        for family, one in sorted(view.families.items())
    ]
    message = msgspec.to_builtins(NetcheckMessage(families, sorted(view.relays)))
    return {"type": "netcheck", "version": VERSION, **message}


def parse_untrusted(message: Mapping[str, Any]) -> SideView | None:
    """Return what the other side sends; None for what this version does not know, or what cannot be.

    Raises:
        RemoteError: the other side runs another command.
        VersionMismatch: it speaks another version.
    """
    if message.get("type") in ("description", "candidates"):
        raise RemoteError(_OTHER_COMMAND)
    if message.get("type") != "netcheck":
        return None
    if message.get("version") != VERSION:
        raise VersionMismatch(
            f"the other side speaks version {shown_version(message.get('version'))} of the check, this one {VERSION}; "
            "install the same version of iceagent on both machines"
        )
    try:
        parsed = msgspec.convert(dict(message), NetcheckMessage)
    except msgspec.ValidationError:
        return None
    views = {one.family: _view(one) for one in parsed.families if one.family in (4, 6)}
    return SideView(views, frozenset(parsed.relays) & set(_TRANSPORTS))


def _view(message: FamilyMessage) -> FamilyView:
    hosts = []
    for text in message.external_hosts:
        with suppress(ValueError):
            hosts.append(str(ipaddress.ip_address(text)))
    mapping = _value(MappingBehaviour, message.mapping, MappingBehaviour.UNKNOWN)
    filtering = _value(Filtering, message.filtering, Filtering.UNKNOWN)
    return FamilyView(mapping, filtering, tuple(hosts), message.maps_ports, message.hairpin)


def _value(kind: type[E], text: str, otherwise: E) -> E:
    try:
        return kind(text)
    except ValueError:
        return otherwise
