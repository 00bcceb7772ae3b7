"""Which QUIC library a link uses: imported at its first use; if it is missing, the error says what to install."""

from __future__ import annotations

from iceagent.errors import LocalError
from iceagent.link.config import LinkConfig, LinkRole
from iceagent.link.entropy import gather_entropy
from iceagent.link.identity import LinkIdentity
from iceagent.link.partial import put_off
from iceagent.link.quic import QuicEndpoint


def preload(backend: str = "qh3") -> None:
    """Get the library of `backend` ready (some 100 ms) while there is time, rather than when a link opens.

    Raises:
        LocalError: there is no such backend, or its library is not installed.
    """
    gather_entropy(backend)
    _endpoint_class(backend)


def create_endpoint(
    backend: str, role: LinkRole, identity: LinkIdentity, peer_fingerprint: bytes, config: LinkConfig
) -> QuicEndpoint:
    """Return an endpoint of the library named `backend`.

    Raises:
        LocalError: there is no such backend, or its library is not installed.
    """
    return _endpoint_class(backend)(role, identity, peer_fingerprint, config)


def _endpoint_class(backend: str) -> type[QuicEndpoint]:
    try:
        if backend == "qh3":
            put_off("qh3")  # whose own names are of asyncio and HTTP/3
            from iceagent.link.quic_qh3 import Qh3Endpoint

            return Qh3Endpoint
        if backend == "aioquic":
            from iceagent.link.quic_aioquic import AioquicEndpoint

            return AioquicEndpoint
    except ImportError as exc:
        raise LocalError(f"the QUIC library {backend} is not installed: pip install {backend}") from exc
    raise LocalError(f"no QUIC backend {backend!r}; there are qh3 and aioquic")
