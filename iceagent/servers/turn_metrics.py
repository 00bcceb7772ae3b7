"""The metrics of a TURN server, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import h11
import trio

from iceagent.core.address import TransportAddress
from iceagent.net.accepting import serve_connections
from iceagent.net.tcp import listen_tcp
from iceagent.servers.turn_options import TurnOptionsError

if TYPE_CHECKING:
    from iceagent.servers.turn import TurnService

REQUEST_S = 10.0
RECEIVE_BYTES = 4096
_WAYS = ("to_peer", "to_client")


def render(service: TurnService) -> bytes:
    """Return the server's metrics in Prometheus' text format.

    Raises:
        TurnOptionsError: prometheus-client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest
    except ImportError:
        raise TurnOptionsError("metrics need prometheus-client: pip install 'iceagent[servers]'") from None
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(service))
    return generate_latest(registry)


class _Collector:
    """Turns the server's own counters into families when they are asked for. No user and no address is among them."""

    def __init__(self, service: TurnService) -> None:
        self._service = service

    def collect(self) -> Iterable[Any]:
        """Return the families."""
        from prometheus_client.core import CounterMetricFamily

        service = self._service
        yield from _gauges(service)
        events = CounterMetricFamily("iceagent_turn_events", "What happened, by reason.", labels=["reason"])
        for reason, count in sorted(service.core.counters.items()):
            events.add_metric([reason], count)
        yield events
        binding = CounterMetricFamily("iceagent_stun_binding", "Binding requests, by outcome.", labels=["outcome"])
        for outcome, count in sorted(service.binding.counters.items()):
            binding.add_metric([outcome], count)
        yield binding
        for what in ("datagrams", "bytes"):
            family = CounterMetricFamily(f"iceagent_turn_relayed_{what}", f"Relayed {what}.", labels=["direction"])
            for way in _WAYS:
                family.add_metric([way], service.core.traffic()[f"{what}_{way}"])
            yield family


def _gauges(service: TurnService) -> Iterator[Any]:
    from prometheus_client.core import GaugeMetricFamily

    core = service.core
    yield GaugeMetricFamily("iceagent_turn_allocations", "Allocations now.", value=len(core.allocations))
    yield GaugeMetricFamily("iceagent_turn_connections", "Client connections now.", value=len(service.doorkeeper))
    yield GaugeMetricFamily("iceagent_turn_draining", "1 while new allocations are refused.", value=core.is_draining)
    ports = GaugeMetricFamily("iceagent_turn_ports", "Relay ports, by state.", labels=["host", "state"])
    for host, pool in core.pools.items():
        for state, count in (("used", pool.used), ("resting", pool.resting), ("free", pool.free)):
            ports.add_metric([host, state], count)
    yield ports


async def serve_metrics(
    service: TurnService,
    address: TransportAddress,
    task_status: trio.TaskStatus[TransportAddress] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `/metrics`, and `/healthz`, until cancelled; reports the bound address.

    Raises:
        OSError: the address is not ours or its port taken.
        TurnOptionsError: prometheus-client is not installed.
    """
    render(service)
    listener = await listen_tcp(address.host, address.port)
    task_status.started(TransportAddress(address.host, listener.socket.getsockname()[1]))

    async def answer(stream: trio.SocketStream) -> None:
        with trio.move_on_after(REQUEST_S):
            try:
                await _answer(service, stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
                return

    await serve_connections(listener, answer)


async def _answer(service: TurnService, stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER)
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(RECEIVE_BYTES))
        elif isinstance(event, h11.Request):
            break
        else:
            return
    path = event.target.partition(b"?")[0]
    status, body = _page(service, path)
    headers = [("Content-Type", "text/plain; version=0.0.4; charset=utf-8"), ("Content-Length", str(len(body)))]
    data = connection.send(h11.Response(status_code=status, headers=[*headers, ("Connection", "close")])) or b""
    data += connection.send(h11.Data(data=body)) or b""
    data += connection.send(h11.EndOfMessage()) or b""
    await stream.send_all(data)


def _page(service: TurnService, path: bytes) -> tuple[int, bytes]:
    if path == b"/metrics":
        return 200, render(service)
    if path == b"/readyz" and service.is_draining:
        return 503, b"draining\n"
    return (200, b"ok\n") if path in (b"/healthz", b"/readyz") else (404, b"not here\n")
