"""Makes the components that an agent's configuration asks for."""

from __future__ import annotations

from typing import Any, Final

from iceagent.agent.component import Component
from iceagent.agent.components import Components, ComponentSet, OneComponent
from iceagent.agent.config import AgentConfig
from iceagent.core import ice
from iceagent.core.constants import TA_OFFERED_S
from iceagent.net.api import Network, RealHost
from iceagent.net.per_run import PerRun


def components_for(config: AgentConfig, role: ice.Role, network: Network) -> Components:
    """Return the components of an agent, each with its part of a core."""
    given: dict[str, Any] = {
        "role": role,
        "randbytes": config.randbytes,
        "config": _ice_config(config),
        "credentials": config.credentials,
        "pacer": _pacer_for(network),
    }
    if tuple(config.streams) == (1,):
        return OneComponent(Component(ice.IceAgent(**given), config, network))
    streams = ice.StreamSet(**given, layout=config.streams)
    return ComponentSet(streams, lambda core, stream: Component(core, config, network, stream=stream))


def _ice_config(config: AgentConfig) -> ice.IceConfig:
    return ice.IceConfig(
        ta_s=TA_OFFERED_S if config.ta_s is None else config.ta_s,
        lite=config.ice_lite,
        controller=config.controller or ice.DefaultController(),
    )


_pacer: Final = PerRun("iceagent.agent.pacer", ice.Pacer)


def _pacer_for(network: Network) -> ice.Pacer | None:
    """Return what paces the checks of all agents on this machine; hosts of a virtual network stand alone."""
    return network.shared(_pacer) if isinstance(network, RealHost) else None
