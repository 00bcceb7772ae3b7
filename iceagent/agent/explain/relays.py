"""Causes at the TURN servers: refusals with their codes, and silence."""

from __future__ import annotations

import errno

from iceagent.agent.explain.facts import Facts
from iceagent.agent.explain.verdict import REFUSALS, Entry, Verdict, VerdictKind, verdict
from iceagent.agent.report.events import RelayAllocated, RelayFailed
from iceagent.core.turn import EndReason

_USELESS = EndReason.USELESS.value
_UNKNOWN = Entry("it refuses", "Look into the server's log.")


def refusal(facts: Facts) -> Verdict | None:
    """Return the verdict that the relay which could have helped said no; None if none did, or another one helps."""
    if facts.relays:
        return _forbidden_peer(facts)
    refused = [event for event in facts.relay_failures if event.code is not None]
    lost = {event.address for event in facts.relays_lost}
    if not refused or any(event.address not in lost for event in facts.latest(RelayAllocated)):
        return None
    last = refused[-1]
    entry = REFUSALS.get(last.code or 0, _UNKNOWN)
    needed = " (none were given)" if last.code == 401 and _has_no_login(facts, last) else ""
    summary = f"No direct path works, and the TURN server refuses to relay ({last.code}): {entry.meaning}{needed}."
    evidence = [f"{event.url} over {event.transport}: {event.code} ({event.reason})" for event in refused]
    return verdict(VerdictKind.RELAY_REFUSED, summary, (*evidence, *facts.general()), entry.remedy)


def _has_no_login(facts: Facts, failed: RelayFailed) -> bool:
    servers = [server for server in facts.driver.servers if server.url == failed.url]
    return bool(servers) and not any(server.credential or server.credentials for server in servers)


def _forbidden_peer(facts: Facts) -> Verdict | None:
    """The relay stands, and may not send where the peer is: 403 to CreatePermission."""
    relayed = {event.address for event in facts.latest(RelayAllocated)}
    forbidden = [one for one in facts.unreachable if one.base in relayed and one.errno == errno.EACCES]
    hosts = {event.remote.host for event in forbidden}
    theirs = {candidate.address.host for candidate in facts.core.remote_candidates}
    if not hosts or not theirs <= hosts:
        return None
    summary = "No direct path works, and the TURN server forbids to relay to any of the peer's addresses (403)."
    evidence = [f"forbidden: {host}" for host in sorted(hosts)]
    remedy = "Ask who runs the server to allow these addresses; private ones are denied by good servers."
    return verdict(VerdictKind.RELAY_REFUSED, summary, (*evidence, *facts.general()), remedy)


def relay_cause(facts: Facts) -> Verdict | None:
    """Return why there is no relayed candidate where nothing else is allowed; None while it is being tried."""
    if not facts.relay_failures and not facts.relays_lost:
        return None
    return refusal(facts) or _useless(facts) or verdict(VerdictKind.RELAY_UNREACHABLE, evidence=tuple(facts.general()))


def _useless(facts: Facts) -> Verdict | None:
    """Return that a server relays, at an address that nobody can use; None if none said so last."""
    failed = facts.relay_failures[-1:]
    if not failed or not failed[0].reason.startswith(_USELESS):
        return None
    summary = f"Only relayed addresses are allowed here, and the TURN server gives none: {failed[0].reason}."
    remedy = "Whoever runs it has to tell it the address at which others reach it."
    return verdict(VerdictKind.RELAY_UNREACHABLE, summary, tuple(facts.general()), remedy)
