"""Allocate: from request to relayed address. RFC 8656 sections 7.2 and 7.4, RFC 6062 section 5.1."""

from __future__ import annotations

from functools import partial
from typing import Final

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.turn.server.allocation import Allocation, AllocationState, ClientPath, RelayedAddress, Signing
from iceagent.core.turn.server.auth import Authenticated
from iceagent.core.turn.server.closing import close_allocation, end_reservation
from iceagent.core.turn.server.limits import OPEN_ATTEMPTS, RESERVATION_S
from iceagent.core.turn.server.state import AllocationChanged, OpenRelay, Reservation, ServerState, ToClient

FAMILIES: Final = {stun.FAMILY_IPV4: 4, stun.FAMILY_IPV6: 6}
_NUMBERS: Final = {4: stun.FAMILY_IPV4, 6: stun.FAMILY_IPV6}


class Refusal(Exception):
    """An error code to answer with."""

    def __init__(self, code: stun.Code) -> None:
        self.code = code


def handle_allocate(
    state: ServerState, now: float, path: ClientPath, request: stun.Message, who: Authenticated
) -> None:
    """Answer an authenticated Allocate, or ask the shell to bind what it asks for."""
    signing = Signing(who.key, who.integrity)
    existing = state.allocations.get(path)
    if existing is not None:
        _answer_again(state, existing, request, signing)
        return
    try:
        allocation = _make(state, now, path, request, who, signing)
    except Refusal as refusal:
        state.refuse(path, request, signing, refusal.code)
        return
    state.add(allocation)
    for relay in allocation.relays:
        state.emit(OpenRelay(relay))


def _answer_again(state: ServerState, existing: Allocation, request: stun.Message, signing: Signing) -> None:
    """A retransmission gets the answer again; until there is one it waits like the first."""
    if existing.request.transaction_id != request.transaction_id:
        state.refuse(existing.path, request, signing, stun.Code.ALLOCATION_MISMATCH)
    elif existing.answer:
        state.counters["allocate_retransmissions"] += 1
        state.send(ToClient(existing.path, existing.answer))


def _make(
    state: ServerState, now: float, path: ClientPath, request: stun.Message, who: Authenticated, signing: Signing
) -> Allocation:
    """Return an allocation whose ports are taken from the pool.

    Raises:
        Refusal: the request cannot be met. Nothing was taken then.
    """
    if who.account.expired:
        raise Refusal(stun.Code.UNAUTHENTICATED)
    transport = _relay_transport(path, request)
    _check_combinations(request, transport)
    if state.draining or len(state.allocations) >= state.limits.allocations:
        raise Refusal(stun.Code.INSUFFICIENT_CAPACITY)
    if not state.has_room(who.account.user, path.remote.host):
        raise Refusal(stun.Code.ALLOCATION_QUOTA_REACHED)
    allocation = Allocation(
        path,
        who.account.user,
        who.account.username,
        request,
        signing,
        granted_lifetime(state, request),
        state.meter_of(who.account.user, now),
    )
    token = request.get(stun.ReservationToken)
    if token is not None:
        _take_reserved(state, allocation, transport, token.value)
    else:
        _take_ports(state, now, allocation, transport)
    return allocation


def _relay_transport(path: ClientPath, request: stun.Message) -> str:
    requested = request.get(stun.RequestedTransport)
    if requested is None:
        raise Refusal(stun.Code.BAD_REQUEST)
    if requested.value == stun.TRANSPORT_UDP:
        return "udp"
    if requested.value == stun.TRANSPORT_TCP and path.is_stream:
        return "tcp"
    raise Refusal(stun.Code.UNSUPPORTED_TRANSPORT_PROTOCOL)


def _check_combinations(request: stun.Message, transport: str) -> None:
    """Refuse attributes that exclude each other. RFC 8656 section 7.2 steps 5 to 8, RFC 6062 section 5.1."""
    requested, additional = request.get(stun.RequestedAddressFamily), request.get(stun.AdditionalAddressFamily)
    even, token = request.get(stun.EvenPort), request.get(stun.ReservationToken)
    if requested is not None and requested.value not in FAMILIES:
        raise Refusal(stun.Code.ADDRESS_FAMILY_NOT_SUPPORTED)
    bad = (
        (token is not None and (even is not None or requested is not None or additional is not None))
        or (additional is not None and requested is not None)
        or (additional is not None and additional.value != stun.FAMILY_IPV6)
        or (additional is not None and even is not None and even.reserve)
        or (
            transport == "tcp" and (even is not None or token is not None or request.get(stun.DontFragment) is not None)
        )
    )
    if bad:
        raise Refusal(stun.Code.BAD_REQUEST)


def granted_lifetime(state: ServerState, request: stun.Message) -> int:
    """Return the lifetime that is granted where LIFETIME asks for another one. RFC 8656 sections 7.2 and 8.2."""
    asked = request.get(stun.Lifetime)
    limits = state.limits
    return (
        limits.default_lifetime_s
        if asked is None
        else min(max(asked.value, limits.default_lifetime_s), limits.max_lifetime_s)
    )


def _take_reserved(state: ServerState, allocation: Allocation, transport: str, token: bytes) -> None:
    reservation = state.reservations.get(token)
    if reservation is None or reservation.user != allocation.user:
        raise Refusal(stun.Code.INSUFFICIENT_CAPACITY)
    del state.reservations[token]
    state.deadlines.cancel(reservation.deadline)
    _add_relay(state, allocation, transport, reservation.host, reservation.port)


def _take_ports(state: ServerState, now: float, allocation: Allocation, transport: str) -> None:
    request = allocation.request
    requested, additional = request.get(stun.RequestedAddressFamily), request.get(stun.AdditionalAddressFamily)
    family = FAMILIES[requested.value] if requested is not None else 4
    even = request.get(stun.EvenPort)
    reserve = even is not None and even.reserve
    families = (4, 6) if additional is not None else (family,)
    for one in families:
        host = _host_of(state, one, allocation.path.local.host)
        port = None if host is None else state.pools[host].take(now, even=even is not None, pair=reserve)
        if host is not None and port is not None:
            _add_relay(state, allocation, transport, host, port)
            continue
        code = stun.Code.ADDRESS_FAMILY_NOT_SUPPORTED if host is None else stun.Code.INSUFFICIENT_CAPACITY
        if additional is None:
            raise Refusal(code)
        allocation.refusals.append(stun.AddressErrorCode(_NUMBERS[one], code))
    if not allocation.relays:
        raise Refusal(stun.Code(allocation.refusals[0].code))
    if reserve:
        _reserve_next(state, now, allocation)


def _host_of(state: ServerState, family: int, asked: str) -> str | None:
    """Return where to bind: the address that was asked, which a client is sure to reach, if relays may be there."""
    hosts = [host for host in state.hosts if (":" in host) == (family == 6)]
    return asked if asked in hosts else next(iter(hosts), None)


def _add_relay(state: ServerState, allocation: Allocation, transport: str, host: str, port: int) -> None:
    address = TransportAddress(state.hosts[host], port)
    allocation.relays.append(RelayedAddress(transport, TransportAddress(host, port), address, allocation))


def _reserve_next(state: ServerState, now: float, allocation: Allocation) -> None:
    bind = allocation.relays[0].bind
    token = state.randbytes(8)
    deadline = state.deadlines.call_at(now + RESERVATION_S, partial(end_reservation, state, token))
    state.reservations[token] = Reservation(bind.host, bind.port + 1, allocation.user, deadline)
    allocation.reservation = token


# -- what the shell reports


def relay_opened(state: ServerState, now: float, relay: RelayedAddress) -> bool:
    """Note that a relay is bound; answer the client when it was the last. False: it is no longer wanted, close it."""
    allocation = relay.allocation
    if allocation.state is not AllocationState.OPENING or relay not in allocation.relays:
        return False
    relay.is_open = True
    state.relays[relay.address] = relay
    _conclude(state, now, allocation)
    return True


def relay_failed(state: ServerState, now: float, relay: RelayedAddress) -> None:
    """Note that a relay cannot be bound: try another port, or answer without it."""
    allocation = relay.allocation
    if allocation.state is not AllocationState.OPENING or relay not in allocation.relays:
        return
    allocation.relays.remove(relay)
    pool = state.pools[relay.bind.host]
    pool.release(now, relay.bind.port)
    allocation.attempts += 1
    if allocation.attempts < OPEN_ATTEMPTS and allocation.request.get(stun.ReservationToken) is None:
        _drop_reservation(state, now, allocation)
        even = allocation.request.get(stun.EvenPort)
        port = pool.take(now, even=even is not None, pair=even is not None and even.reserve)
        if port is not None:
            _add_relay(state, allocation, relay.transport, relay.bind.host, port)
            if even is not None and even.reserve:
                _reserve_next(state, now, allocation)
            state.emit(OpenRelay(allocation.relays[-1]))
            return
    code = stun.Code.INSUFFICIENT_CAPACITY
    allocation.refusals.append(stun.AddressErrorCode(_NUMBERS[relay.family], code))
    _conclude(state, now, allocation)


def _drop_reservation(state: ServerState, now: float, allocation: Allocation) -> None:
    if allocation.reservation is not None:
        end_reservation(state, allocation.reservation, now)
        allocation.reservation = None


def _conclude(state: ServerState, now: float, allocation: Allocation) -> None:
    """Answer when nothing is opening any more."""
    if not all(relay.is_open for relay in allocation.relays):
        return
    if not allocation.relays:
        _drop_reservation(state, now, allocation)
        path, request, signing = allocation.path, allocation.request, allocation.signing
        close_allocation(state, now, allocation, "failed")
        state.refuse(path, request, signing, stun.Code.INSUFFICIENT_CAPACITY)
        return
    allocation.state = AllocationState.ACTIVE
    allocation.expires_at = now + allocation.lifetime_s
    schedule_expiry(state, allocation)
    state.counters["allocations"] += 1
    state.emit(AllocationChanged(allocation, "opened"))
    allocation.answer = state.reply(allocation.path, _success(allocation), allocation.signing)


def _success(allocation: Allocation) -> stun.Message:
    relays = sorted(allocation.relays, key=lambda relay: relay.family)
    attributes: list[stun.Attribute] = [stun.Lifetime(allocation.lifetime_s)]
    attributes += [stun.XorRelayedAddress(relay.address) for relay in relays]
    attributes.append(stun.XorMappedAddress(allocation.path.remote))
    if allocation.reservation is not None:
        attributes.append(stun.ReservationToken(allocation.reservation))
    attributes += allocation.refusals
    return stun.success(allocation.request, *attributes)


def schedule_expiry(state: ServerState, allocation: Allocation) -> None:
    """Look at the allocation when it should end; a Refresh in between moves that on."""
    allocation.scheduled_at = allocation.expires_at
    state.deadlines.cancel(allocation.deadline)
    allocation.deadline = state.deadlines.call_at(allocation.expires_at, partial(_expire, state, allocation))


def _expire(state: ServerState, allocation: Allocation, now: float) -> None:
    if allocation.expires_at <= now:
        close_allocation(state, now, allocation, "expired")
    else:
        schedule_expiry(state, allocation)
