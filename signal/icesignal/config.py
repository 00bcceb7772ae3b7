"""The configuration file of a relay: TOML, read strictly. Whatever is wrong is one sentence with file, key and remedy.

What the file and the command line both say, the command line decides. Source: docs/operate.md.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from icesignal.registry import RoomLimits
from icesignal.sources import Limits, Rate
from icesignal.turn_servers import TTL_S
from icesignal.wire import MAX_MEMBERS, MAX_MESSAGE_BYTES, MAX_PAYLOAD_BYTES
from icesignal.work import MAX_ROUNDS, ROUNDS

MAX_FILE_BYTES = 1 << 20  # ours: a configuration of more is a mistake, a device or a log
MAX_NUMBER = 1e12  # ours: above it seconds and bytes mean nothing

Words = Annotated[str, msgspec.Meta(min_length=1)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=MAX_NUMBER)]
Number = Annotated[float, msgspec.Meta(ge=0, le=MAX_NUMBER)]
Whole = Annotated[int, msgspec.Meta(ge=1, le=int(MAX_NUMBER))]
Tries = Annotated[int, msgspec.Meta(ge=0, le=MAX_ROUNDS // ROUNDS)]  # with more no client would do it
Seconds = Annotated[float, msgspec.Meta(ge=1, le=MAX_NUMBER)]
# A payload of the largest, and what is counted beside it: whoever cannot have that can send nothing, some day.
AtLeastAMessage = Annotated[int, msgspec.Meta(ge=MAX_MESSAGE_BYTES, le=int(MAX_NUMBER))]
# The limits that have another range than positive numbers. With less than these nobody would be served.
_RANGES: dict[str, object] = {
    "members": Annotated[int, msgspec.Meta(ge=2, le=MAX_MEMBERS)],
    "nameplate_digits": Annotated[int, msgspec.Meta(ge=1, le=9)],
    "nameplate_rest_s": Number,
    **dict.fromkeys(("work_tries", "dear_tries"), Tries),
    "entry_bytes": Annotated[int, msgspec.Meta(ge=0, le=MAX_MESSAGE_BYTES - MAX_PAYLOAD_BYTES)],
    **dict.fromkeys(("header_timeout_s", "first_frame_s", "log_s", "resume_s", "unjoined_s"), Seconds),
    **dict.fromkeys(("log_bytes", "log_bytes_per_source", "total_log_bytes", "window_bytes"), AtLeastAMessage),
}
_AT = re.compile(r" - at `(key in )?\$\.?(?P<key>[^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>[^`]*)`")
_TYPE = re.compile(r"`([a-z]+)`")
_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
_HEADER = re.compile(r"\s*\[{1,2}(?P<key>[^\[\]=]+)\]{1,2}\s*(#.*)?$")
_ENTRY = re.compile(r"\s*(?P<key>[\w.\"' -]+?)\s*=")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")


class ConfigError(ValueError):
    """A configuration cannot be used; the sentence names file and key, and says what is expected there."""


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of all tables: a key that nobody knows is a slip, and would be without effect."""


class TlsTable(Table, frozen=True, kw_only=True):
    """`[tls]`: certificate chain and private key, PEM files."""

    cert: Words
    key: Words


class TurnTable(Table, frozen=True, kw_only=True):
    """One of `[[turn]]`: a TURN server that members get credentials for."""

    urls: Annotated[tuple[Words, ...], msgspec.Meta(min_length=1, max_length=8)]
    secret_file: Words
    region: str = ""
    weight: Positive = 1.0
    ttl_s: Annotated[int, msgspec.Meta(ge=60, le=7 * 86_400)] = TTL_S


class _RateTable(Table, frozen=True, kw_only=True):
    burst: Annotated[float, msgspec.Meta(ge=1, le=MAX_NUMBER)]
    per_s: Number


class _BytesTable(_RateTable, frozen=True, kw_only=True):
    burst: Annotated[float, msgspec.Meta(ge=MAX_MESSAGE_BYTES, le=MAX_NUMBER)]


class RelayConfig(Table, frozen=True, kw_only=True):
    """What a file may say of a relay; None where it says nothing. Paths are relative to the file's folder."""

    listen: Words | None = None
    admin_listen: Words | None = None
    status_token_file: Words | None = None
    drain_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] | None = None
    stun: tuple[Words, ...] = ()
    engine: Words | None = None
    trusted_proxies: tuple[Words, ...] = ()
    allow_origins: tuple[Words, ...] = ()
    tls: TlsTable | None = None
    limits: dict[str, Any] = {}
    rooms: dict[str, Any] = {}
    turn: Annotated[tuple[TurnTable, ...], msgspec.Meta(max_length=256)] = ()
    regions: dict[str, tuple[Words, ...]] = {}
    log_format: Literal["text", "json"] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"  # URLs may hold passwords


C = TypeVar("C", bound=RelayConfig)
T = TypeVar("T", bound=Table)
L = TypeVar("L", Limits, RoomLimits)


def read_config(path: Path, kind: type[C]) -> C:
    """Return what a file says, with whole paths.

    Args:
        path: of the file.
        kind: which tables and keys it may have.
    Raises:
        ConfigError: it cannot be read, is no TOML, or a key is unknown, of another type or out of its range.
    """
    config = read_table(path, kind)
    try:
        limits_of(config, Limits)
        limits_of(config, RoomLimits)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    turn = tuple(msgspec.structs.replace(one, secret_file=beside(path, one.secret_file)) for one in config.turn)
    tls = config.tls and TlsTable(cert=beside(path, config.tls.cert), key=beside(path, config.tls.key))
    token_file = config.status_token_file and beside(path, config.status_token_file)
    return msgspec.structs.replace(config, tls=tls, turn=turn, status_token_file=token_file)


def read_table(path: Path, kind: type[T], problem_of: Callable[[os.stat_result], str | None] | None = None) -> T:
    """Return what a file of TOML says.

    Args:
        path: of the file.
        kind: which tables and keys it may have.
        problem_of: returns why the file, as it lies there, is not to be read; None for nothing.
    Raises:
        ConfigError: it cannot be read, is no TOML, or a key is unknown, of another type or out of its range; the
            sentence names the line where it can be found.
    """
    text = _read(path, problem_of)
    try:
        return msgspec.convert(_parse(path, text), kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}{_sentence(error, kind, text=text)}") from None


def beside(path: Path, name: str) -> str:
    """Return the path of a file that another one names: relative ones begin in its folder."""
    return str(path.parent / name)


def limits_of(config: RelayConfig, kind: type[L]) -> L:
    """Return limits, those that a file does not name as they are by default.

    Raises:
        ConfigError: one of them is unknown, of another type or out of its range.
    """
    where, given = ("limits", config.limits) if kind is Limits else ("rooms", config.rooms)
    try:
        table = msgspec.convert(given, _table_of(kind))
    except msgspec.ValidationError as error:
        raise ConfigError(_sentence(error, _table_of(kind), where).removeprefix(": ")) from None
    values = {name: getattr(table, name) for name in given}
    rates = {name: Rate(value.burst, value.per_s) for name, value in values.items() if isinstance(value, _RateTable)}
    limits = replace(kind(), **{**values, **rates})
    if isinstance(limits, Limits) and limits.failed_join_cost > limits.joins.burst:
        raise ConfigError("limits.failed_join_cost: expected at most limits.joins.burst, or nobody could join")
    return limits


def _table_of(kind: type[Limits] | type[RoomLimits]) -> type[msgspec.Struct]:
    """Return the table that has each limit under its name, none of them needed."""
    ranges = {**_RANGES, "bytes": _BytesTable}
    usual: dict[type, object] = {int: Whole, float: Positive, Rate: _RateTable}
    return msgspec.defstruct(
        kind.__name__,
        [(one.name, ranges.get(one.name, usual[type(one.default)]), msgspec.UNSET) for one in fields(kind)],
        bases=(Table,),
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )


def _read(path: Path, problem_of: Callable[[os.stat_result], str | None] | None) -> str:
    try:
        # Without waiting: a FIFO would wait for whoever writes into it.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            problem = problem_of(os.fstat(file.fileno())) if problem_of is not None else None
            data = b"" if problem else file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from None
    if problem:
        raise ConfigError(f"{path} {problem}")
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES >> 10} KiB; is it the right file?")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8, as TOML has to be") from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {str(error)[:1].lower()}{str(error)[1:]}") from None


def _sentence(error: msgspec.ValidationError, kind: type[msgspec.Struct], where: str = "", text: str = "") -> str:
    """Return `: ` and what is wrong, of a message of msgspec's, which names keys and types and never a value.

    Args:
        error: the message.
        kind: which keys there may be.
        where: the table that was looked at, empty for all of the file.
        text: the file, where the line is to be named.
    """
    said = str(error)
    found = _AT.search(said)
    inner = found.group("key") if found else ""
    key = ".".join(part for part in (where, inner.replace("[...]", "")) if part)
    said = said[: found.start()] if found else said
    if (unknown := _UNKNOWN.match(said)) is not None:
        name = unknown.group("name")
        known = _keys_at(kind, inner)
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
        line = line_of(text, f"{inner}.{name}" if inner else name)
        return f"{line}: {f'{key}.' if key else ''}{name} is no key of this file; {hint}"
    if (missing := _MISSING.match(said)) is not None:
        return f"{line_of(text, inner)}: {f'{key}.' if key else ''}{missing.group('name')} is missing"
    said = _TYPE.sub(lambda one: _WORDS.get(one.group(1), one.group(1)), said.replace(" | null", ""))
    return f"{line_of(text, inner)}: {key}: {said[:1].lower()}{said[1:]}"


def line_of(text: str, key: str) -> str:
    """Return `, line N`, where a file of TOML has a key such as `turn[...].urls`; empty where it is not found.

    `[...]` is any key of a table, or any place in a list. Where several lines fit, none is named: it could be wrong.
    """
    wanted = key.replace("[...]", ".*").strip(".").split(".")
    found, table = set[int](), list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if (header := _HEADER.match(line)) is not None:
            table = _parts(header.group("key"))
            has_it = _fits(table, wanted)
        elif (entry := _ENTRY.match(line)) is not None:
            has_it = _fits([*table, *_parts(entry.group("key"))], wanted)
        else:
            continue
        if has_it:
            found.add(number)
    return f", line {found.pop()}" if len(found) == 1 else ""


def _parts(key: str) -> list[str]:
    return [part.strip().strip("\"'") for part in key.split(".")]


def _fits(there: list[str], wanted: list[str]) -> bool:
    """Return whether a key of a file is the one that is wanted; `[...]` there is any, or none for a list's place."""
    fits = len(there) == len(wanted) and all(b in (a, "*") for a, b in zip(there, wanted, strict=True))
    return fits or there == [part for part in wanted if part != "*"]


def _keys_at(kind: type[msgspec.Struct], inner: str) -> list[str]:
    """Return the keys of a table, or of one inside of it."""
    here: type[msgspec.Struct] = kind
    for part in filter(None, inner.replace("[...]", "").split(".")):
        found = next((one.type for one in msgspec.structs.fields(here) if one.name == part), None)
        tables = [one for one in _types_in(found) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
        if not tables:
            return []
        here = tables[0]
    return [one.name for one in msgspec.structs.fields(here)]


def _types_in(hint: object) -> list[object]:
    """Return a type and those it is made of."""
    return [hint, *(inner for argument in getattr(hint, "__args__", ()) for inner in _types_in(argument))]
