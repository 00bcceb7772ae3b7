"""What `--json` prints: one type for each kind of line, from which `docs/json-lines.schema.json` is made.

No verb needs it while it runs. Tests hold every line that is printed against these types, strictly; who reads lines
ignores keys and kinds that he does not know, so the published schema allows further keys. `make schema` writes it.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import UNSET, UnsetType

from iceagent.cli.control.messages import SessionStatus
from iceagent.cli.output import SCHEMA

Maybe = UnsetType
Words = tuple[str, ...]
Milliseconds = Annotated[float, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Family = Literal[4, 6]
Exit = Annotated[int, msgspec.Meta(ge=1, le=255)]


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """The base of all: `schema` is raised when a key changes its meaning."""

    schema: Literal[1]

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"  # codes and passwords are meant for one pair of eyes


class Listening(Line, frozen=True, kw_only=True, tag="listening"):
    """`serve`, `turn`: the servers run; `listen --name`: the peer is waited for."""

    url: str | Maybe = UNSET
    stun: str | Maybe = UNSET
    tls_url: str | Maybe = UNSET
    admin: str | Maybe = UNSET
    turn: str | Maybe = UNSET
    urls: Words | Maybe = UNSET
    realm: str | Maybe = UNSET
    username: str | Maybe = UNSET
    credential: str | Maybe = UNSET
    peer: str | Maybe = UNSET


class Checked(Line, frozen=True, kw_only=True, tag="checked"):
    """`check-config`, `config check`: the file can be used."""

    file: str


class SettingLine(Line, frozen=True, kw_only=True, tag="setting"):
    """`config show`: what holds, and what has decided it."""

    name: str
    value: bool | float | str | Words | None
    source: str


class Metrics(Line, frozen=True, kw_only=True, tag="metrics"):
    """`serve`, `turn`: where metrics are read."""

    url: str


class Reloaded(Line, frozen=True, kw_only=True, tag="reloaded"):
    """`serve`, `turn`: certificate and key were read again."""

    ok: bool
    message: str | Maybe = UNSET


class Draining(Line, frozen=True, kw_only=True, tag="draining"):
    """`serve`, `turn`: SIGTERM came."""

    seconds: Seconds
    allocations: int | Maybe = UNSET
    connections: int | Maybe = UNSET


class WordsLine(Line, frozen=True, kw_only=True, tag="words"):
    """Five words, which the other side must show, too."""

    peer: str | Maybe = UNSET
    words: Annotated[Words, msgspec.Meta(min_length=5, max_length=5)]


class Paired(Line, frozen=True, kw_only=True, tag="paired"):
    """`pair`: who is known from now on."""

    name: str
    fingerprint: str


class IdentityLine(Line, frozen=True, kw_only=True, tag="identity"):
    """`peers`: who this user is."""

    fingerprint: str


class PeerLine(Line, frozen=True, kw_only=True, tag="peer"):
    """`peers`: one of the peers; `paired` is the day."""

    name: str
    fingerprint: str
    paired: str


class Renamed(Line, frozen=True, kw_only=True, tag="renamed"):
    """`peers rename`."""

    name: str
    before: str


class Removed(Line, frozen=True, kw_only=True, tag="removed"):
    """`peers remove`."""

    name: str


class CodeLine(Line, frozen=True, kw_only=True, tag="code"):
    """`listen`, `pair`, `netcheck --invite`: the code, and the command to paste on the other machine."""

    code: str
    relay: str
    command: str
    reach: Literal["machine", "network", "anywhere"] | Maybe | None = UNSET


class StatusLine(Line, frozen=True, kw_only=True, tag="status"):
    """`status`: what a running command does."""

    pid: int
    verb: str
    since: float
    program: str
    requests: Words
    sessions: tuple[SessionStatus, ...]
    sessions_left_out: int


class UnansweredLine(Line, frozen=True, kw_only=True, tag="unanswered"):
    """`status`: a command is there, and does not answer."""

    pid: int
    reason: str


class NoneLine(Line, frozen=True, kw_only=True, tag="none"):
    """`status`: no command is running."""


class PingLine(Line, frozen=True, kw_only=True, tag="ping"):
    """`ping`: one of them; `rtt_ms` is null where it was lost."""

    number: int
    rtt_ms: Milliseconds | None
    direct: bool | None
    path: str | None


class PingsLine(Line, frozen=True, kw_only=True, tag="pings"):
    """`ping`: all of them."""

    sent: int
    answered: int
    lost: int
    min_ms: Milliseconds | None
    median_ms: Milliseconds | None
    max_ms: Milliseconds | None


class EventLine(Line, frozen=True, kw_only=True, tag="event"):
    """`trace`: one event of a timeline, in words."""

    t: float
    event: str
    what: str
    between: str
    result: str


class Forgotten(Line, frozen=True, kw_only=True, tag="forgotten"):
    """`trace`: how many earlier events were not kept."""

    count: int


class Conclusion(Line, frozen=True, kw_only=True, tag="conclusion"):
    """`trace`: what the agent said in the end."""

    started: str
    verdict: str
    summary: str
    remedy: str


class Drawn(Line, frozen=True, kw_only=True, tag="drawn"):
    """`trace --svg`: the chart is written."""

    file: str


class PathLine(Line, frozen=True, kw_only=True, tag="path"):
    """All with a peer: the path in use, again whenever it changes."""

    peer: str | Maybe = UNSET
    direct: bool
    transport: Literal["udp", "tcp", "turn-udp", "turn-tcp", "turn-tls", "turn-dtls"]
    local: str
    remote: str
    rtt_ms: Milliseconds | None
    because: str | None


class Forwarding(Line, frozen=True, kw_only=True, tag="forwarding"):
    """`forward`: a socket is open, here or, `remote`, over there."""

    bind: str
    binds: Words
    target: str
    direction: Literal["local", "remote", "dynamic"]


class ForwardRemoved(Line, frozen=True, kw_only=True, tag="forward-removed"):
    """`forwards remove`: the socket is closed."""

    bind: str


class OfferLine(Line, frozen=True, kw_only=True, tag="offer"):
    """`send`, `receive`: what is to be sent."""

    files: int
    size: int | None
    there: int
    names: Words
    more_names: int
    overwrites: Words


class ProgressLine(Line, frozen=True, kw_only=True, tag="progress"):
    """`send`, `receive`: how far it is; every second."""

    files: int
    files_done: int
    size: int | None
    done: int
    moved: int
    rate: Annotated[float, msgspec.Meta(ge=0)]
    eta_s: Seconds | None
    name: str


class TransferredLine(Line, frozen=True, kw_only=True, tag="transferred"):
    """`send`, `receive`: all is verified and written."""

    files: int
    size: int
    moved: int
    seconds: Seconds
    missing: Words


class Waiting(Line, frozen=True, kw_only=True, tag="waiting"):
    """All with a peer: what is waited for."""

    peer: str | Maybe = UNSET
    stage: Literal["relay", "meet", "peer", "path", "link"]
    seconds: Seconds
    verdict: str | None


class OutageLine(Line, frozen=True, kw_only=True, tag="outage"):
    """All with a peer: the other side does not answer, or does again."""

    peer: str | Maybe = UNSET
    state: Literal["silent", "restarting", "reconnecting", "trying", "back"]
    seconds: Seconds
    here: bool
    gives_up_s: Seconds | None


class VerdictObject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The verdict of `Agent.explain()` (docs/explain.md)."""

    kind: str
    because: str | None
    summary: str
    evidence: Words
    remedy: str


class Closed(Line, frozen=True, kw_only=True, tag="closed"):
    """`listen`, `forward` with a name: a session is over, or nobody came of a code."""

    peer: str | Maybe = UNSET
    reason: str
    verdict: VerdictObject | Maybe | None = UNSET


class Full(Line, frozen=True, kw_only=True, tag="full"):
    """`listen --allow`: as many are connected as may be."""


class Log(Line, frozen=True, kw_only=True, tag="log"):
    """All: what the library logs."""

    level: Literal["debug", "info", "warning", "error", "critical"]
    logger: str
    message: str


class ErrorLine(Line, frozen=True, kw_only=True, tag="error"):
    """All: why the command ends, with which exit code."""

    exit: Exit
    message: str
    verdict: VerdictObject | Maybe = UNSET


class RelayLine(Line, frozen=True, kw_only=True, tag="relay"):
    """`netcheck`: the relay that was asked."""

    url: str
    ok: bool
    latency_ms: Milliseconds | None
    detail: str


class ServerLine(Line, frozen=True, kw_only=True, tag="server"):
    """`netcheck`: a STUN or TURN server that was asked."""

    url: str
    transport: Literal["udp", "tcp", "tls", "dtls"]
    family: Family | None
    ok: bool
    relays: bool
    latency_ms: Milliseconds | None
    detail: str


class Nat(Line, frozen=True, kw_only=True, tag="nat"):
    """`netcheck`: what is between this machine and others, for one IP version."""

    family: Family
    local: str
    gateway: str | None
    udp: bool | Maybe = UNSET
    mapping: str | Maybe = UNSET
    filtering: str | Maybe = UNSET
    mapped: Words | Maybe = UNSET
    hairpin: bool | Maybe | None = UNSET
    fragments: bool | Maybe | None = UNSET
    preserves_port: bool | Maybe | None = UNSET
    lifetime_s: tuple[Seconds, Seconds | None] | Maybe | None = UNSET


class PortMapping(Line, frozen=True, kw_only=True, tag="port-mapping"):
    """`netcheck`: a protocol by which the gateway may open a port."""

    protocol: Literal["pcp", "nat-pmp", "upnp"]
    available: bool
    detail: str
    external: str | None


class Web(Line, frozen=True, kw_only=True, tag="web"):
    """`netcheck`: what is between this machine and the web."""

    intercepted: bool | None
    detail: str
    proxy: str | None
    clock_offset_s: float | None


class Summary(Line, frozen=True, kw_only=True, tag="summary"):
    """`netcheck`: all of it in one sentence."""

    udp: bool | None
    maps_ports: bool
    meaning: str


class PredictionLine(Line, frozen=True, kw_only=True, tag="prediction"):
    """`netcheck --invite` and `--peer`: how the two sides would be connected."""

    outcome: Literal["direct", "relayed", "impossible", "unknown"]
    certain: bool
    reason: str
    family: Family | None


AnyLine = (
    Listening
    | Checked
    | SettingLine
    | Metrics
    | Reloaded
    | Draining
    | WordsLine
    | Paired
    | IdentityLine
    | PeerLine
    | Renamed
    | Removed
    | CodeLine
    | StatusLine
    | UnansweredLine
    | NoneLine
    | PingLine
    | PingsLine
    | EventLine
    | Forgotten
    | Conclusion
    | Drawn
    | PathLine
    | Forwarding
    | ForwardRemoved
    | OfferLine
    | ProgressLine
    | TransferredLine
    | Waiting
    | OutageLine
    | Closed
    | Full
    | Log
    | ErrorLine
    | RelayLine
    | ServerLine
    | Nat
    | PortMapping
    | Web
    | Summary
    | PredictionLine
)

KINDS: dict[str, type[Line]] = {str(one.__struct_config__.tag): one for one in get_args(AnyLine)}
"""The type of each kind."""


def check_line(line: dict[str, Any]) -> None:
    """Refuse a line that is not as the schema has it.

    Raises:
        ValueError: it is of no kind there is, lacks a key, has one too many, or one of another type.
    """
    try:
        msgspec.convert(line, AnyLine)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"a line of kind {line.get('kind')!r} is not as iceagent/cli/json_lines.py has it: {error}"
        ) from None


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a line, as it is published: with further keys allowed."""
    schema = msgspec.json.schema(AnyLine)
    for one in schema["$defs"].values():
        one.pop("additionalProperties", None)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of `iceagent --json`",
        "description": f"Version {SCHEMA}. New keys and new kinds may come at any time; ignore those you do not know.",
    }
    return head | schema


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(json_schema()), indent=2) + b"\n")
