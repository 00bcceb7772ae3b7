"""What a configuration names outside of itself: certificates, keys, files of secrets. Looked at before all else."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from icesignal.config import RelayConfig
from icesignal.engines.choice import MEMORY, make_engine
from icesignal.http import parse_origins
from icesignal.ice_urls import check_stun, check_turn
from icesignal.registry import RoomLimits
from icesignal.sources import parse_networks
from icesignal.tls import ServerTls, TlsError
from icesignal.turn_servers import TurnOffer

MIN_SECRET_BYTES = 16  # as iceagent's TURN server wants it
MAX_SECRET_BYTES = 4096  # of the first line
TOKEN = re.compile(rb"[\x21-\x2b\x2d-\x7e]+")  # what a header can carry; a comma would begin another value of it
OTHERS = stat.S_IROTH | stat.S_IWOTH | stat.S_IXOTH  # a group may read: so services are given their secrets


def problems_of(path: Path, config: RelayConfig, unix_time: Callable[[], float] = time.time) -> Iterator[str]:
    """Give a sentence for each thing that would keep a relay from starting, or would make it unsafe.

    Args:
        path: of the configuration.
        config: what it says.
        unix_time: seconds since 1970, by which certificates end.
    """
    for key, values, parse in (
        ("trusted_proxies", config.trusted_proxies, parse_networks),
        ("allow_origins", config.allow_origins, parse_origins),
        ("stun", config.stun, check_stun),
        *((f"turn[{number}].urls", one.urls, check_turn) for number, one in enumerate(config.turn)),
    ):
        try:
            parse(values)
        except ValueError as error:
            yield f"{path}: {key}: {error}"
    for number, one in enumerate(config.turn):
        if one.region and one.region not in config.regions:
            yield f"{path}: turn[{number}].region: {one.region!r} is not among regions, so nobody would be near"
        yield from turn_secret_problems(one.secret_file)
    for name, networks in config.regions.items():
        try:
            parse_networks(networks)
        except ValueError as error:
            yield f"{path}: regions.{name}: {error}"
    try:
        make_engine(config.engine or MEMORY, RoomLimits())
    except ValueError as error:
        yield f"{path}: engine: {error}"
    if config.status_token_file is not None:
        yield from status_token_problems(config.status_token_file)
    if config.tls is not None:
        yield from certificate_problems(config.tls.cert, config.tls.key, unix_time)


def certificate_problems(certificate: str, key: str, unix_time: Callable[[], float] = time.time) -> Iterator[str]:
    """Give what is wrong with a certificate and its key."""
    try:
        ServerTls(certificate, key)
    except TlsError as error:
        yield str(error)
        return
    try:
        first = x509.load_pem_x509_certificate(Path(certificate).read_bytes())
    except ValueError:  # as of TRUSTED CERTIFICATE, which OpenSSL takes: when it ends cannot be told
        yield f"{certificate} does not begin with a PEM certificate, as openssl x509 -in {certificate} prints it"
        return
    now = datetime.fromtimestamp(unix_time(), UTC)
    if first.not_valid_after_utc < now:
        yield f"{certificate} has expired on {first.not_valid_after_utc:%Y-%m-%d}; renew it"
    elif first.not_valid_before_utc > now:
        yield (
            f"{certificate} is not good before {first.not_valid_before_utc:%Y-%m-%d %H:%M} UTC,"
            f" and it is {now:%Y-%m-%d %H:%M} UTC here; is the clock right?"
        )
    yield from secret_file_problems(key)


def secret_file_problems(path: str) -> Iterator[str]:
    """Give what is wrong with a file that holds a secret: it cannot be read, or everybody can."""
    try:
        # Without waiting: a FIFO would wait for whoever writes into it.
        with open(path, "rb", opener=_open_at_once) as file:
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        yield f"{path} cannot be read: {(error.strerror or str(error)).lower()}"
        return
    if not stat.S_ISREG(mode):
        yield f"{path} is no file"
    elif os.name == "posix" and mode & OTHERS:
        yield f"{path} holds a secret, and every user of this machine may open it; chmod 640 {path}"


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def turn_secret_problems(path: str) -> Iterator[str]:
    """Give what is wrong with the file of a secret that is shared with a TURN server."""
    found = list(secret_file_problems(path))
    yield from found
    if not found:
        try:
            read_secret(path)
        except ValueError as error:
            yield str(error)


def read_secret(path: str) -> bytes:
    """Return the secret of a file: its first line.

    Raises:
        ValueError: there is none, or one that could be guessed.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        secret = file.readline(MAX_SECRET_BYTES).strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(
            f"{path}: a secret has at least {MIN_SECRET_BYTES} characters; make one: openssl rand -base64 33"
        )
    return secret


def status_token_problems(path: str) -> Iterator[str]:
    """Give what is wrong with the file of the token of the status page."""
    found = list(turn_secret_problems(path))
    yield from found
    if not found and TOKEN.fullmatch(read_secret(path)) is None:
        yield f"{path}: a token has letters, digits and marks of ASCII, no spaces; make one: openssl rand -base64 33"


def read_status_token(path: str | None) -> str | None:
    """Return the token of a file, its first line; None where no file is named.

    Raises:
        ValueError: it cannot be used; the sentence says why.
    """
    if path is None:
        return None
    for problem in status_token_problems(path):
        raise ValueError(problem)
    return read_secret(path).decode("ascii")


def turn_offers(config: RelayConfig, urls: Sequence[str], secret_file: str | None) -> list[TurnOffer]:
    """Return the TURN servers of a configuration and those of the command line.

    Raises:
        ValueError: a secret or a URL is missing or cannot be used; the sentence says which.
    """
    offers = [
        TurnOffer(one.urls, read_secret(one.secret_file), one.region, one.weight, one.ttl_s) for one in config.turn
    ]
    if not urls and secret_file is None:
        return offers
    if not urls or secret_file is None:
        raise ValueError("--turn-url and --turn-secret-file belong together")
    check_turn(tuple(urls))
    for problem in turn_secret_problems(secret_file):
        raise ValueError(problem)
    return [TurnOffer(tuple(urls), read_secret(secret_file)), *offers]
