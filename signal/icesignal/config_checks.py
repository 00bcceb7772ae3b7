"""What a configuration names outside of itself: certificates, keys, files of secrets. Looked at before all else."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from icesignal.config import RelayConfig
from icesignal.http import parse_origins
from icesignal.sources import parse_networks
from icesignal.tls import ServerTls, TlsError

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
    ):
        try:
            parse(values)
        except ValueError as error:
            yield f"{path}: {key}: {error}"
    for url in config.stun:
        if not url.startswith(("stun:", "stuns:")):
            yield f"{path}: stun: {url!r} is not a STUN URL, as in stun:stun.example:3478"
    if config.tls is not None:
        yield from certificate_problems(config.tls.cert, config.tls.key, unix_time)


def certificate_problems(certificate: str, key: str, unix_time: Callable[[], float] = time.time) -> Iterator[str]:
    """Give what is wrong with a certificate and its key."""
    try:
        ServerTls(certificate, key)
    except TlsError as error:
        yield str(error)
        return
    first = x509.load_pem_x509_certificate(Path(certificate).read_bytes())
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
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        yield f"{path} cannot be read: {(error.strerror or str(error)).lower()}"
        return
    if not stat.S_ISREG(mode):
        yield f"{path} is no file"
    elif os.name == "posix" and mode & OTHERS:
        yield f"{path} holds a secret, and every user of this machine may open it; chmod 640 {path}"
