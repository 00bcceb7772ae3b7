"""Permissions and channels of one allocation, refreshed whether or not data flows. RFC 8656 sections 9 to 12."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.turn.channel_data import CHANNEL_MIN
from iceagent.core.turn.client_requests import PendingRequest, Requester, RequestOutcome
from iceagent.core.turn.client_values import (
    CHANNEL_LIFETIME_S,
    MAX_CHANNELS,
    MAX_HELD,
    MAX_PERMISSIONS,
    PERMISSION_LIFETIME_S,
    REFRESH_MARGIN_S,
    RETRY_S,
    ChannelBound,
    ChannelFailed,
    PermissionFailed,
    PermissionInstalled,
    TurnEvent,
)

_FORBIDDEN: Final = (403, 443, 447)  # for good: policy, family
_MISMATCH: Final = 437


class PeerState(Enum):
    """Of a permission and of a channel."""

    PENDING = "pending"
    READY = "ready"
    FAILED = "failed"


@dataclass(slots=True, eq=False)
class Permission:
    """One peer address. `held` keeps, in order, what is to be sent once it stands."""

    host: str
    state: PeerState = PeerState.PENDING
    expires_at: float = 0.0
    due_at: float = inf  # to be refreshed; or when failed, not tried again before
    request: PendingRequest | None = None
    held: deque[tuple[TransportAddress, bytes]] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class ClientChannel:
    """A channel number, which stays that peer's as long as the allocation lives, even if the binding fails.

    A binding may have failed only for us: with another peer on the same number, data of the two could cross.
    """

    peer: TransportAddress
    number: int
    state: PeerState = PeerState.PENDING
    expires_at: float = 0.0
    due_at: float = inf
    request: PendingRequest | None = None


class Peers:
    """The peers of one allocation.

    Args:
        requests: sends CreatePermission and ChannelBind.
        emit: takes events.
        release: takes (peer, datagrams) that may go now.
        mismatch: is called when the server knows no allocation.
    """

    def __init__(
        self,
        requests: Requester,
        emit: Callable[[TurnEvent], None],
        release: Callable[[TransportAddress, Sequence[bytes]], None],
        mismatch: Callable[[RequestOutcome], None],
    ) -> None:
        self._requests = requests
        self._emit = emit
        self._release = release
        self._mismatch = mismatch
        self._permissions: dict[str, Permission] = {}
        self._channels: dict[TransportAddress, ClientChannel] = {}
        self._next_number = CHANNEL_MIN
        self.numbers: dict[TransportAddress, int] = {}
        """Peers whose channel is bound: the send path's one lookup."""
        self.by_number: dict[int, TransportAddress] = {}
        """All numbers ever asked for: data may overtake the answer to the binding, or the answer be lost."""

    # Permissions

    def state_of(self, host: str) -> PeerState | None:
        """Return the state of the permission of an address, or None before it was asked for."""
        permission = self._permissions.get(host)
        return None if permission is None else permission.state

    def permit(self, now: float, host: str) -> PeerState:
        """Ask for a permission if there is none; return its state."""
        permission = self._permissions.get(host)
        if permission is None:
            if len(self._permissions) >= MAX_PERMISSIONS or self._requests.is_full:
                return PeerState.FAILED
            permission = self._permissions[host] = Permission(host)
            self._create(now, permission)
        elif permission.state is PeerState.FAILED and now >= permission.due_at:
            permission.state = PeerState.PENDING
            self._create(now, permission)
        return permission.state

    def hold(self, peer: TransportAddress, datagrams: Sequence[bytes]) -> int:
        """Keep datagrams until the pending permission stands; return how many, the rest has to wait."""
        held = self._permissions[peer.host].held
        count = max(0, min(len(datagrams), MAX_HELD - len(held)))
        held.extend((peer, datagram) for datagram in datagrams[:count])
        return count

    def _create(self, now: float, permission: Permission) -> None:
        attribute = stun.XorPeerAddress(TransportAddress(permission.host, 0))
        permission.due_at = inf
        permission.request = self._requests.start(
            now,
            stun.Method.CREATE_PERMISSION,
            (attribute,),
            lambda at, outcome: self._created(at, permission, outcome),
        )

    def _created(self, now: float, permission: Permission, outcome: RequestOutcome) -> None:
        permission.request = None
        if outcome.response is not None:
            self._installed(now, permission)
        elif outcome.code == _MISMATCH:
            self._mismatch(outcome)
        elif outcome.code is None and permission.state is PeerState.READY and now < permission.expires_at:
            permission.due_at = min(now + RETRY_S, permission.expires_at)
        else:
            self._permission_failed(now, permission, outcome.code)

    def _installed(self, now: float, permission: Permission) -> None:
        is_news = permission.state is not PeerState.READY
        permission.state = PeerState.READY
        permission.expires_at = now + PERMISSION_LIFETIME_S
        permission.due_at = permission.expires_at - REFRESH_MARGIN_S
        if is_news:
            self._emit(PermissionInstalled(permission.host))
        while permission.held:
            peer, datagram = permission.held.popleft()
            self._release(peer, (datagram,))

    def _permission_failed(self, now: float, permission: Permission, code: int | None) -> None:
        permission.state = PeerState.FAILED
        permission.due_at = inf if code in _FORBIDDEN else now + RETRY_S
        permission.held.clear()
        for channel in self._channels.values():
            if channel.peer.host == permission.host:
                self.numbers.pop(channel.peer, None)
        self._emit(PermissionFailed(permission.host, code))

    # Channels

    def want_channel(self, now: float, peer: TransportAddress) -> None:
        """Bind a channel for a peer, once; whatever the result, it is not tried with another number."""
        if peer in self._channels or len(self._channels) >= MAX_CHANNELS or self._requests.is_full:
            return
        channel = self._channels[peer] = ClientChannel(peer, self._next_number)
        self._next_number += 1
        self.by_number[channel.number] = peer
        self._bind(now, channel)

    def _bind(self, now: float, channel: ClientChannel) -> None:
        attributes = (stun.ChannelNumber(channel.number), stun.XorPeerAddress(channel.peer))
        channel.due_at = inf
        channel.request = self._requests.start(
            now, stun.Method.CHANNEL_BIND, attributes, lambda at, outcome: self._bound(at, channel, outcome)
        )

    def _bound(self, now: float, channel: ClientChannel, outcome: RequestOutcome) -> None:
        channel.request = None
        if outcome.response is not None:
            is_news = channel.state is not PeerState.READY
            channel.state = PeerState.READY
            channel.expires_at = now + CHANNEL_LIFETIME_S
            channel.due_at = channel.expires_at - REFRESH_MARGIN_S
            self.numbers[channel.peer] = channel.number
            if is_news:
                self._emit(ChannelBound(channel.peer, channel.number))
        elif outcome.code == _MISMATCH:
            self._mismatch(outcome)
        elif outcome.is_ambiguous and channel.state is PeerState.READY and now < channel.expires_at:
            # The same number for the same peer once more: that is a refresh whether or not the last one arrived.
            channel.due_at = min(now + RETRY_S, channel.expires_at)
        else:
            channel.state = PeerState.FAILED
            self.numbers.pop(channel.peer, None)
            self._emit(ChannelFailed(channel.peer, outcome.code))

    # Time

    def handle_timeout(self, now: float) -> None:
        """Refresh what is due, and give up what has run out."""
        for permission in list(self._permissions.values()):
            if permission.state is not PeerState.READY:
                continue
            if now >= permission.expires_at:
                self._forget(permission.request)
                permission.request = None
                self._permission_failed(now, permission, None)
            elif now >= permission.due_at and not self._requests.is_full:
                self._create(now, permission)
        for channel in list(self._channels.values()):
            if channel.state is not PeerState.READY:
                continue
            if now >= channel.expires_at:
                self._forget(channel.request)
                self._bound(now, channel, RequestOutcome())
            elif now >= channel.due_at and not self._requests.is_full:
                self._bind(now, channel)

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` wants to be called."""
        return min(self._timeouts(), default=None)

    def _timeouts(self) -> Iterable[float]:
        entries: list[Permission | ClientChannel] = [*self._permissions.values(), *self._channels.values()]
        for entry in entries:
            if entry.state is PeerState.READY:
                yield min(entry.due_at, entry.expires_at)

    def _forget(self, request: PendingRequest | None) -> None:
        if request is not None:
            self._requests.cancel(request)

    def clear(self) -> None:
        """Forget all."""
        self._permissions.clear()
        self._channels.clear()
        self.numbers.clear()
        self.by_number.clear()
