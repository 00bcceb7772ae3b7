"""Requests on an existing allocation: Refresh, CreatePermission and ChannelBind. RFC 8656 sections 8, 10 and 12."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.turn.channel_data import CHANNEL_MAX, CHANNEL_MAX_RFC5766, CHANNEL_MIN
from iceagent.core.turn.server.allocate import FAMILIES, granted_lifetime, schedule_expiry
from iceagent.core.turn.server.allocation import Allocation, AllocationState, Channel, ClientPath, Signing
from iceagent.core.turn.server.auth import Authenticated
from iceagent.core.turn.server.closing import close_allocation, close_relay
from iceagent.core.turn.server.limits import (
    CHANNEL_LIFETIME_S,
    PERMISSION_LIFETIME_S,
)
from iceagent.core.turn.server.state import ServerState


def allocation_for(
    state: ServerState, path: ClientPath, request: stun.Message, who: Authenticated
) -> Allocation | None:
    """Return the allocation a request is about; None when it has been refused: 437, or 441 for another user."""
    allocation = state.allocations.get(path)
    signing = Signing(who.key, who.integrity)
    if allocation is None or allocation.state is not AllocationState.ACTIVE:
        state.refuse(path, request, signing, stun.Code.ALLOCATION_MISMATCH)
        return None
    # RFC 8656 section 5 asks for the same username; `expiry:id` changes with each renewal, its id does not.
    if allocation.user != who.account.user or (who.account.expired and allocation.username != who.account.username):
        state.refuse(path, request, signing, stun.Code.WRONG_CREDENTIALS)
        return None
    return allocation


def handle_refresh(state: ServerState, now: float, path: ClientPath, request: stun.Message, who: Authenticated) -> None:
    """Prolong an allocation or, with a LIFETIME of zero, end it."""
    signing = Signing(who.key, who.integrity)
    asked = request.get(stun.Lifetime)
    if path not in state.allocations and asked is not None and asked.value == 0:
        # The answer to the first of two releases was lost: what the client wants is the case.
        state.reply(path, stun.success(request, stun.Lifetime(0)), signing)
        return
    allocation = allocation_for(state, path, request, who)
    if allocation is None:
        return
    family = request.get(stun.RequestedAddressFamily)
    meant = [relay for relay in allocation.relays if family is None or relay.family == FAMILIES.get(family.value)]
    if not meant:
        state.refuse(path, request, signing, stun.Code.PEER_ADDRESS_FAMILY_MISMATCH)
        return
    if asked is not None and asked.value == 0:
        if len(meant) == len(allocation.relays):
            close_allocation(state, now, allocation, "released")
        else:
            close_relay(state, now, meant[0])
        state.reply(path, stun.success(request, stun.Lifetime(0)), signing)
        return
    lifetime = granted_lifetime(state, request)
    allocation.expires_at = now + lifetime
    allocation.username = who.account.username
    if allocation.expires_at < allocation.scheduled_at:
        schedule_expiry(state, allocation)
    state.reply(path, stun.success(request, stun.Lifetime(lifetime)), signing)


def handle_create_permission(
    state: ServerState, now: float, path: ClientPath, request: stun.Message, who: Authenticated
) -> None:
    """Install or prolong permissions: all that are asked for, or none."""
    allocation = allocation_for(state, path, request, who)
    if allocation is None:
        return
    signing = Signing(who.key, who.integrity)
    peers = [attribute.address for attribute in request.get_all(stun.XorPeerAddress)]
    is_relayed = partial(_may_be_relayed, state)
    code = stun.Code.BAD_REQUEST if not peers else _first_refusal(state, allocation, peers, is_relayed)
    if code is None and not _make_room(state, now, allocation, {peer.host for peer in peers}):
        code = stun.Code.INSUFFICIENT_CAPACITY
    if code is not None:
        state.refuse(path, request, signing, code)
        return
    for peer in peers:
        allocation.permissions[peer.host] = now + PERMISSION_LIFETIME_S
    state.reply(path, stun.success(request), signing)


def handle_channel_bind(
    state: ServerState, now: float, path: ClientPath, request: stun.Message, who: Authenticated
) -> None:
    """Bind a channel to a peer, or prolong the binding."""
    allocation = allocation_for(state, path, request, who)
    if allocation is None:
        return
    signing = Signing(who.key, who.integrity)
    number, peer = request.get(stun.ChannelNumber), request.get(stun.XorPeerAddress)
    # RFC 8656 has narrowed the range; clients of RFC 5766 (turnutils_uclient among them) take all of the old one.
    highest = CHANNEL_MAX_RFC5766 if who.is_legacy else CHANNEL_MAX
    if number is None or peer is None or not _fits(now, allocation, number.value, peer.address, highest):
        state.refuse(path, request, signing, stun.Code.BAD_REQUEST)
        return
    code = _first_refusal(state, allocation, [peer.address], state.is_relayed)
    if code is None and not (
        _make_room(state, now, allocation, {peer.address.host}) and _has_channel_room(state, now, allocation, number)
    ):
        code = stun.Code.INSUFFICIENT_CAPACITY
    if code is not None:
        state.refuse(path, request, signing, code)
        return
    _bind(allocation, now, number.value, peer.address)
    state.reply(path, stun.success(request), signing)


def _may_be_relayed(state: ServerState, peer: TransportAddress) -> bool:
    """Return whether a permission for a host of this server may mean another client's relay.

    The port of a permission means nothing (RFC 8656 section 10.1) and often is 0: then it is one for relays, those that
    are there and those that come, as after a restart that both sides recover from. A port that is named must be a
    relay's now. What is sent, and what comes back, is judged by host and port in any case.
    """
    return peer.port == 0 or state.is_relayed(peer)


def _first_refusal(
    state: ServerState,
    allocation: Allocation,
    peers: list[TransportAddress],
    is_relayed: Callable[[TransportAddress], bool],
) -> stun.Code | None:
    for peer in peers:
        if not state.policy.allows(peer, is_relayed):
            state.counters["peers_denied"] += 1
            return stun.Code.FORBIDDEN
        if allocation.relay_for(peer) is None:
            return stun.Code.PEER_ADDRESS_FAMILY_MISMATCH
    return None


def _make_room(state: ServerState, now: float, allocation: Allocation, hosts: set[str]) -> bool:
    """Return whether permissions for `hosts` fit, forgetting those that are over if need be."""
    permissions = allocation.permissions
    if len(permissions.keys() | hosts) <= state.limits.permissions:
        return True
    for host in [host for host, until in permissions.items() if until <= now]:
        del permissions[host]
    return len(permissions.keys() | hosts) <= state.limits.permissions


def _fits(now: float, allocation: Allocation, number: int, peer: TransportAddress, highest: int) -> bool:
    """Return whether number and peer are free or bound to each other. RFC 8656 section 12.2."""
    bound, bound_number = allocation.channels.get(number), allocation.channel_of.get(peer)
    return (
        CHANNEL_MIN <= number <= highest
        and (bound is None or bound.expires_at <= now or bound.peer == peer)
        and (bound_number is None or bound_number.expires_at <= now or bound_number.number == number)
    )


def _has_channel_room(state: ServerState, now: float, allocation: Allocation, number: stun.ChannelNumber) -> bool:
    channels = allocation.channels
    if number.value in channels or len(channels) < state.limits.channels:
        return True
    for channel in [channel for channel in channels.values() if channel.expires_at <= now]:
        _unbind(allocation, channel)
    return len(channels) < state.limits.channels


def _bind(allocation: Allocation, now: float, number: int, peer: TransportAddress) -> None:
    relay = allocation.relay_for(peer)
    assert relay is not None, "the family was checked"
    for stale in (allocation.channels.get(number), allocation.channel_of.get(peer)):
        if stale is not None:
            _unbind(allocation, stale)
    channel = Channel(number, peer, relay, now + CHANNEL_LIFETIME_S)
    allocation.channels[number] = channel
    allocation.channel_of[peer] = channel
    allocation.permissions[peer.host] = now + PERMISSION_LIFETIME_S


def _unbind(allocation: Allocation, channel: Channel) -> None:
    allocation.channels.pop(channel.number, None)
    allocation.channel_of.pop(channel.peer, None)
