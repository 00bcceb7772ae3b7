"""The sans-IO core that goes with an agent's configuration."""

from __future__ import annotations

from typing import Final

import trio

from iceagent.agent.config import AgentConfig
from iceagent.core import ice
from iceagent.core.constants import TA_OFFERED_S
from iceagent.net.system import SystemNetwork


def core_for(config: AgentConfig, role: ice.Role) -> ice.IceAgent:
    """Return the core of an agent with one component."""
    return ice.IceAgent(
        role=role,
        randbytes=config.randbytes,
        config=_ice_config(config),
        credentials=config.credentials,
        pacer=_pacer_for(config),
    )


def streams_for(config: AgentConfig, role: ice.Role) -> ice.StreamSet:
    """Return the core of an agent with the streams of its configuration."""
    return ice.StreamSet(
        role=role,
        layout=config.streams,
        randbytes=config.randbytes,
        config=_ice_config(config),
        credentials=config.credentials,
        pacer=_pacer_for(config),
    )


def _ice_config(config: AgentConfig) -> ice.IceConfig:
    return ice.IceConfig(
        ta_s=TA_OFFERED_S if config.ta is None else config.ta,
        lite=config.ice_lite,
        controller=config.controller or ice.DefaultController(),
    )


_pacer: Final[trio.lowlevel.RunVar[ice.Pacer]] = trio.lowlevel.RunVar("iceagent.agent.pacer")


def _pacer_for(config: AgentConfig) -> ice.Pacer | None:
    """Return what paces the checks of all agents on this machine; hosts of a virtual network stand alone."""
    if config.network is not None and not isinstance(config.network, SystemNetwork):
        return None
    try:
        return _pacer.get()
    except LookupError:
        _pacer.set(ice.Pacer())
        return _pacer.get()
