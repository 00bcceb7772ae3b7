"""TURN: the client's and the server's machines, sans-IO. RFC 8656, RFC 6062."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iceagent.core.lazy import names_on_demand

if TYPE_CHECKING:
    from iceagent.core.turn.channel_data import (
        CHANNEL_MAX,
        CHANNEL_MIN,
        StreamFrames,
        decode_channel_data,
        encode_channel_batch,
        encode_channel_data,
        frame_length,
        is_channel_data,
        strip_channel_batch,
    )
    from iceagent.core.turn.client import TurnClient
    from iceagent.core.turn.client_connection import ConnectionBinder
    from iceagent.core.turn.client_peers import PeerState
    from iceagent.core.turn.client_values import (
        Allocated,
        AllocationRequest,
        ChannelBound,
        ChannelFailed,
        ClientState,
        Connected,
        ConnectFailed,
        ConnectionAttempted,
        CredentialsChanged,
        Ended,
        EndReason,
        PeerUnreachable,
        PermissionFailed,
        PermissionInstalled,
        TurnError,
        TurnEvent,
    )
    from iceagent.core.turn.credentials import (
        LongTermKeys,
        TurnCredentials,
        long_term_keys,
        shared_secret_credentials,
        shared_secret_expiry,
        shared_secret_password,
    )
else:
    __getattr__, __dir__ = names_on_demand(
        __name__,
        {
            "channel_data": (
                "CHANNEL_MAX CHANNEL_MIN StreamFrames decode_channel_data encode_channel_batch "
                "encode_channel_data frame_length is_channel_data strip_channel_batch"
            ),
            "client": "TurnClient",
            "client_connection": "ConnectionBinder",
            "client_peers": "PeerState",
            "client_values": (
                "Allocated AllocationRequest ChannelBound ChannelFailed ClientState Connected ConnectFailed "
                "ConnectionAttempted CredentialsChanged Ended EndReason PeerUnreachable PermissionFailed "
                "PermissionInstalled TurnError TurnEvent"
            ),
            "credentials": (
                "LongTermKeys TurnCredentials long_term_keys shared_secret_credentials shared_secret_expiry "
                "shared_secret_password"
            ),
        },
    )

__all__ = [
    "CHANNEL_MAX",
    "CHANNEL_MIN",
    "Allocated",
    "AllocationRequest",
    "ChannelBound",
    "ChannelFailed",
    "ClientState",
    "ConnectFailed",
    "Connected",
    "ConnectionAttempted",
    "ConnectionBinder",
    "CredentialsChanged",
    "EndReason",
    "Ended",
    "LongTermKeys",
    "PeerState",
    "PeerUnreachable",
    "PermissionFailed",
    "PermissionInstalled",
    "StreamFrames",
    "TurnClient",
    "TurnCredentials",
    "TurnError",
    "TurnEvent",
    "decode_channel_data",
    "encode_channel_batch",
    "encode_channel_data",
    "frame_length",
    "is_channel_data",
    "long_term_keys",
    "shared_secret_credentials",
    "shared_secret_expiry",
    "shared_secret_password",
    "strip_channel_batch",
]
