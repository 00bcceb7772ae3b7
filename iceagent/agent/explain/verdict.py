"""The kinds of verdicts: what each means and what helps. The table in docs/explain.md is made from this."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

MAX_EVIDENCE: Final = 24  # ours: lines; the strongest come first


class VerdictKind(Enum):
    """What can be said of an agent."""

    CLOSED = "closed"
    CONNECTED = "connected"
    RELAYED = "relayed"
    NETWORK_CHANGED = "network-changed"
    STOPPED = "stopped"
    RESTART_UNANSWERED = "restart-unanswered"
    SILENT = "silent"
    CONSENT_LOST = "consent-lost"
    CONSENT_REVOKED = "consent-revoked"
    PATH_LOST = "path-lost"
    NO_LOCAL_ADDRESS = "no-local-address"
    FILTERED_BY_POLICY = "filtered-by-policy"
    RELAY_REFUSED = "relay-refused"
    RELAY_UNREACHABLE = "relay-unreachable"
    WAITING_FOR_CREDENTIALS = "waiting-for-credentials"
    WRONG_CREDENTIALS = "wrong-credentials"
    WAITING_FOR_CANDIDATES = "waiting-for-candidates"
    UNUSABLE_CANDIDATES = "unusable-candidates"
    NO_COMMON_TRANSPORT = "no-common-transport"
    NO_COMMON_FAMILY = "no-common-family"
    NO_NAME_RESOLUTION = "no-name-resolution"
    NO_UDP_EGRESS = "no-udp-egress"
    STUN_IPV4_ONLY = "stun-ipv4-only"
    STUN_IPV6_ONLY = "stun-ipv6-only"
    BOTH_MAP_PER_DESTINATION = "both-map-per-destination"
    ONE_MAPS_PER_DESTINATION = "one-maps-per-destination"
    PEER_NEVER_CHECKED = "peer-never-checked"
    PEER_NEVER_ANSWERED = "peer-never-answered"
    NO_PATH = "no-path"
    CHECKING = "checking"


class RelayReason(Enum):
    """Why data goes through a relay."""

    POLICY = "policy"
    PEER_RELAYS_ONLY = "peer-relays-only"
    DIRECT_FILTERED = "direct-filtered"
    DIRECT_PATH_LOST = "direct-path-lost"
    UDP_BLOCKED = "udp-blocked"
    NO_COMMON_FAMILY = "no-common-family"
    NO_COMMON_TRANSPORT = "no-common-transport"
    BOTH_MAP_PER_DESTINATION = "both-map-per-destination"
    ONE_MAPS_PER_DESTINATION = "one-maps-per-destination"
    NO_PUBLIC_ADDRESS = "no-public-address"
    NO_DIRECT_ANSWER = "no-direct-answer"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One conclusion about an agent.

    Attributes:
        kind: for programs.
        summary: one sentence for people.
        evidence: the facts it rests on, the strongest first.
        remedy: what to do, or "" when nothing has to be done.
        because: of a relayed agent, why.
    """

    kind: VerdictKind
    summary: str
    evidence: tuple[str, ...] = ()
    remedy: str = ""
    because: RelayReason | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the verdict as values that JSON has."""
        return {
            "kind": self.kind.value,
            "because": None if self.because is None else self.because.value,
            "summary": self.summary,
            "evidence": list(self.evidence),
            "remedy": self.remedy,
        }

    def __str__(self) -> str:
        lines = [self.summary, *(f"  - {fact}" for fact in self.evidence)]
        return "\n".join([*lines, self.remedy] if self.remedy else lines)


class Entry(NamedTuple):
    """What the documentation says of a kind; `remedy` is also what verdicts say unless they know better."""

    meaning: str
    remedy: str


_FORWARD: Final = "Forward a UDP port or enable port mapping (PCP, NAT-PMP, UPnP) on one of the routers"
_GUESS: Final = " Or set `hard_nat` (`--hard-nat`) on both sides: docs/hard-nats.md."
_GUESS_COUNTED: Final = (
    " Or set `hard_nat` (`--hard-nat`) on both sides, which helps where a NAT counts its ports: docs/hard-nats.md."
)

CATALOGUE: Final[dict[VerdictKind, Entry]] = {
    VerdictKind.CLOSED: Entry("The agent was closed here.", ""),
    VerdictKind.CONNECTED: Entry("Data flows, or may flow, directly.", ""),
    VerdictKind.RELAYED: Entry("Data flows through a relay; `because` says why, see below.", ""),
    VerdictKind.NETWORK_CHANGED: Entry(
        "This machine's network changed under a connected agent, and no path works since.",
        "Wait for the network, and carry the credentials and candidates of `Restarted` to the peer.",
    ),
    VerdictKind.STOPPED: Entry(
        "This machine slept, or this program was stopped, and the peer has not answered since: it gives up after 30 s.",
        "Connect again; a machine that is to keep a session has to stay awake.",
    ),
    VerdictKind.RESTART_UNANSWERED: Entry(
        "A restart was begun here, and the peer's new credentials have not come.",
        "Carry the credentials and candidates of `Restarted` to the peer and its own back; see that signaling works.",
    ),
    VerdictKind.SILENT: Entry(
        "The path in use has gone silent; it recovers with the next answer, or is given up after 30 s.",
        "Check that both machines are awake and online.",
    ),
    VerdictKind.CONSENT_LOST: Entry(
        "The peer was connected and then stopped answering for 30 s (RFC 7675).",
        "Connect again; if it keeps happening, the peer's machine sleeps or its network changes.",
    ),
    VerdictKind.CONSENT_REVOKED: Entry(
        "The peer was connected and then said that it wants nothing more (403, RFC 7675 section 5.2).",
        "Ask the peer; it ended the session on purpose.",
    ),
    VerdictKind.PATH_LOST: Entry(
        "The socket or the relay in use is gone, and no other path to the peer works.",
        "Connect again; for a relay, see that the TURN server runs.",
    ),
    VerdictKind.NO_LOCAL_ADDRESS: Entry("This machine has no network address.", "Connect it to a network, then retry."),
    VerdictKind.FILTERED_BY_POLICY: Entry(
        "There are addresses here, or candidates of the peer's, and the configuration allows none of them.",
        "Widen what is allowed here: by the options of the command line (`-4`, `-6`, `--interface`, "
        "`--deny-interface`, `--deny-remote`), or by the fields of `AgentConfig` that the evidence names.",
    ),
    VerdictKind.RELAY_REFUSED: Entry(
        "No direct path works, and the TURN server says no; the remedy depends on its code, see below.", ""
    ),
    VerdictKind.RELAY_UNREACHABLE: Entry(
        "Only relayed addresses are allowed here, and no TURN server gives one.",
        "Check that the TURN server runs and that a firewall lets one of its transports pass.",
    ),
    VerdictKind.WAITING_FOR_CREDENTIALS: Entry(
        "The peer's credentials have not come.",
        "Carry agent.credentials to the peer and its own back to set_remote_credentials.",
    ),
    VerdictKind.WRONG_CREDENTIALS: Entry(
        "The two sides do not hold each other's present description. Forged noise does not lead to this: what counts "
        "takes the names of both sides and an address of the peer's, our password, or a transaction id of ours.",
        "One side holds an old or mixed-up description: exchange both anew.",
    ),
    VerdictKind.WAITING_FOR_CANDIDATES: Entry(
        "The peer has sent no candidate.",
        "Carry each of the peer's local_candidates() to add_remote_candidate.",
    ),
    VerdictKind.UNUSABLE_CANDIDATES: Entry(
        "The peer has sent candidates, and none of them can be used: names that do not resolve, no real addresses.",
        "See that the peer gathers real addresses; `.local` names resolve only within one network.",
    ),
    VerdictKind.NO_COMMON_TRANSPORT: Entry(
        "The peer's candidates all use a transport (UDP, TCP) that ours do not.",
        "Enable UDP or TCP candidates on both sides.",
    ),
    VerdictKind.NO_COMMON_FAMILY: Entry(
        "The two sides have no IP version in common.", "Enable the missing IP version on one side, or add a relay."
    ),
    VerdictKind.NO_NAME_RESOLUTION: Entry(
        "No server's name could be resolved, and no path works without them.",
        "Check the DNS settings of this machine, and the names of the servers.",
    ),
    VerdictKind.NO_UDP_EGRESS: Entry(
        "Neither the peer nor any server answers over UDP: this network lets none of it out, or the servers are down.",
        "See that the servers run. Allow outbound UDP in the firewall, or use another network; a TURN server over TCP "
        "or TLS gets through most.",
    ),
    VerdictKind.STUN_IPV4_ONLY: Entry(
        "Servers answer over IPv4 only, and the peer can be reached over IPv6 only.",
        "Mend this machine's IPv6, or see that the peer offers IPv4 addresses.",
    ),
    VerdictKind.STUN_IPV6_ONLY: Entry(
        "Servers answer over IPv6 only, and the peer can be reached over IPv4 only.",
        "Mend this machine's IPv4, or see that the peer offers IPv6 addresses.",
    ),
    VerdictKind.BOTH_MAP_PER_DESTINATION: Entry(
        "Both sides' NATs take another port for each destination (symmetric), so neither can know the other's.",
        f"{_FORWARD}, or add a TURN server.{_GUESS_COUNTED}",
    ),
    VerdictKind.ONE_MAPS_PER_DESTINATION: Entry(
        "One side's NAT takes another port for each destination (symmetric), and the other side's NAT or firewall "
        "lets in only what it has sent to.",
        f"{_FORWARD}, or add a TURN server.{_GUESS}",
    ),
    VerdictKind.PEER_NEVER_CHECKED: Entry(
        "Not one check of the peer reached us.",
        "See that the peer got our description and runs; else a firewall or two strict NATs stand in between.",
    ),
    VerdictKind.PEER_NEVER_ANSWERED: Entry(
        "The peer's checks reach us, but none of ours was answered: packets get through one way only.",
        "See what filters outbound UDP here, or inbound UDP at the peer.",
    ),
    VerdictKind.NO_PATH: Entry(
        "Every path to the peer was tried and none works both ways.",
        "Add a STUN server on both sides; where that is not enough, a TURN server.",
    ),
    VerdictKind.CHECKING: Entry("The paths to the peer are being tried.", ""),
}

RELAY_CATALOGUE: Final[dict[RelayReason, Entry]] = {
    RelayReason.POLICY: Entry("the policy here allows nothing else", ""),
    RelayReason.PEER_RELAYS_ONLY: Entry("the peer offers relayed addresses only", ""),
    RelayReason.DIRECT_FILTERED: Entry(
        "the policy here leaves out all direct candidates", "Widen what `AgentConfig` allows."
    ),
    RelayReason.DIRECT_PATH_LOST: Entry(
        "the direct path was lost", "Nothing, if it was an accident: a direct path that works again is taken again."
    ),
    RelayReason.UDP_BLOCKED: Entry(
        "UDP does not get out of this network", "Allow outbound UDP in the firewall for a direct path."
    ),
    RelayReason.NO_COMMON_FAMILY: Entry(
        "the two machines have no IP version in common", "Enable the missing IP version on one side."
    ),
    RelayReason.NO_COMMON_TRANSPORT: Entry(
        "the two machines have no transport in common", "Enable UDP candidates on both sides."
    ),
    RelayReason.BOTH_MAP_PER_DESTINATION: Entry("both NATs map per destination", f"{_FORWARD}.{_GUESS_COUNTED}"),
    RelayReason.ONE_MAPS_PER_DESTINATION: Entry(
        "one NAT maps per destination, the other side lets in only what it has sent to", f"{_FORWARD}.{_GUESS}"
    ),
    RelayReason.NO_PUBLIC_ADDRESS: Entry(
        "no direct path answered, and neither side knows its public address", "Add a STUN server on both sides."
    ),
    RelayReason.NO_DIRECT_ANSWER: Entry("no direct path has answered, and nothing shows why", f"{_FORWARD}.{_GUESS}"),
}

REFUSALS: Final[dict[int, Entry]] = {
    300: Entry("it names another server", "Use the server it names."),
    400: Entry("it does not understand", "It may be no TURN server, or an old one; look into its log."),
    401: Entry(
        "it does not accept the credentials",
        "Check user name and password; short-lived ones may have expired, or the clocks differ.",
    ),
    403: Entry("its policy forbids it", "The server's policy forbids it; ask who runs it."),
    437: Entry(
        "it knows another allocation for this port, or none",
        "Wait a few minutes: the server still holds an old allocation of this port, or a NAT in between was restarted.",
    ),
    441: Entry(
        "the credentials are not those of the allocation",
        "Check user name and password; short-lived ones may have expired, or the clocks differ.",
    ),
    442: Entry("it does not relay UDP", "Use a server that relays UDP."),
    440: Entry("it has no addresses of that IP version", "Use a server that has, or the other IP version."),
    486: Entry("the user's quota is reached", "Close other sessions of this user, or raise the server's quota."),
    508: Entry("it has no capacity left", "The server is full; try another one, or later."),
}
"""Codes of TURN servers (RFC 8656 section 19): what they mean, and the remedy of `relay-refused`."""


def beyond_guessing(remedy: str) -> str:
    """Return a remedy without the advice to set `hard_nat`, for those who have."""
    return remedy.removesuffix(_GUESS).removesuffix(_GUESS_COUNTED)


def verdict(kind: VerdictKind, summary: str = "", evidence: tuple[str, ...] = (), remedy: str | None = None) -> Verdict:
    """Return a verdict that says what the catalogue says, or more."""
    entry = CATALOGUE[kind]
    evidence = tuple(dict.fromkeys(evidence))[:MAX_EVIDENCE]
    return Verdict(kind, summary or entry.meaning, evidence, entry.remedy if remedy is None else remedy)
