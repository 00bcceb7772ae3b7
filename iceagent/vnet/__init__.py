"""A virtual network for tests: hosts, routers and NATs in memory, in virtual time, the same every time.

```python
net = vnet.Network(seed=1)
home = net.router(net.internet, nat=vnet.PORT_RESTRICTED)
alice = net.host(home)                              # 192.168.1.2; an iceagent.net.api.Network
server = net.host(net.internet, name="stun.example")
async with net:
    ...
```

See docs/vnet.md. The names are loaded when first used, because pytest imports this package at every start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iceagent.vnet.factory import NetworkFactory
    from iceagent.vnet.firewall import STATEFUL, STUN_BLOCKED, UDP_BLOCKED, WEB_ONLY, Firewall
    from iceagent.vnet.host import Host
    from iceagent.vnet.link import Burst, Direction, Link
    from iceagent.vnet.nat import (
        ADDRESS_RESTRICTED,
        FULL_CONE,
        MASQUERADE,
        NONE,
        PORT_RESTRICTED,
        SYMMETRIC,
        Behaviour,
        Nat,
        NatTable,
        PortAllocation,
    )
    from iceagent.vnet.network import Network
    from iceagent.vnet.oracle import PossiblePath, Reachability, Relay, Side, reachability
    from iceagent.vnet.router import Router
    from iceagent.vnet.scheduling import deterministic_scheduling, run
    from iceagent.vnet.tcp import VirtualTcpListener, VirtualTcpStream
    from iceagent.vnet.trace import NetworkStatistics, TraceRecord
    from iceagent.vnet.udp import VirtualUdpSocket

__all__ = [
    "ADDRESS_RESTRICTED",
    "FULL_CONE",
    "MASQUERADE",
    "NONE",
    "PORT_RESTRICTED",
    "STATEFUL",
    "STUN_BLOCKED",
    "SYMMETRIC",
    "UDP_BLOCKED",
    "WEB_ONLY",
    "Behaviour",
    "Burst",
    "Direction",
    "Firewall",
    "Host",
    "Link",
    "Nat",
    "NatTable",
    "Network",
    "NetworkFactory",
    "NetworkStatistics",
    "PortAllocation",
    "PossiblePath",
    "Reachability",
    "Relay",
    "Router",
    "Side",
    "TraceRecord",
    "VirtualTcpListener",
    "VirtualTcpStream",
    "VirtualUdpSocket",
    "deterministic_scheduling",
    "reachability",
    "run",
]

_HOMES = {
    "factory": ("NetworkFactory",),
    "firewall": ("STATEFUL", "STUN_BLOCKED", "UDP_BLOCKED", "WEB_ONLY", "Firewall"),
    "host": ("Host",),
    "link": ("Burst", "Direction", "Link"),
    "network": ("Network",),
    "oracle": ("PossiblePath", "Reachability", "Relay", "Side", "reachability"),
    "router": ("Router",),
    "scheduling": ("deterministic_scheduling", "run"),
    "tcp": ("VirtualTcpListener", "VirtualTcpStream"),
    "trace": ("NetworkStatistics", "TraceRecord"),
    "udp": ("VirtualUdpSocket",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'nat')}"), name)
    globals()[name] = value
    return value
