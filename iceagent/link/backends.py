"""Which QUIC library a link uses: imported at its first use, in part only, or an error says what to install."""

from __future__ import annotations

import sys
import threading
from importlib.util import find_spec, module_from_spec

from iceagent.errors import LocalError
from iceagent.link.config import LinkConfig, LinkRole
from iceagent.link.identity import LinkIdentity
from iceagent.link.quic import QuicEndpoint


def put_off(package: str) -> None:
    """Let modules of a package be imported without its `__init__`, which runs when somebody asks for a name in it.

    For a package whose `__init__` imports far more than is used here. If it is imported already, or not installed,
    nothing happens.
    """
    if package in sys.modules:
        return
    spec = find_spec(package)
    if spec is None or spec.loader is None:
        return
    loader, module = spec.loader, module_from_spec(spec)

    def run(name: str) -> object:
        if find_spec(f"{package}.{name}") is not None:
            raise AttributeError(name)  # `from package import name` takes it for a module then, and imports that
        vars(module).pop("__getattr__", None)
        loader.exec_module(module)
        return getattr(module, name)

    vars(module)["__getattr__"] = run
    sys.modules[package] = module


_begun = threading.Event()


def gather_entropy(backend: str = "qh3") -> None:
    """Have the library seed its generator now, in a thread of its own: once per process, and nobody need wait for it.

    `qh3` (aws-lc) measures the jitter of the processor for some 60 ms as it makes its first key. Left to the handshake,
    both sides would do so one after the other, with everybody waiting. It lets other threads run meanwhile.
    """
    if backend != "qh3" or _begun.is_set():
        return
    _begun.set()
    put_off("qh3")
    try:
        from qh3._hazmat import X25519KeyExchange
    except ImportError:  # another version: what is missing is reported when a link opens, and this is only about time
        return
    threading.Thread(target=X25519KeyExchange, name="iceagent entropy").start()


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
