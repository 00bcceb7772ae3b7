"""Finding candidates, ours and those the peer signals: host, reflexive, relayed, mapped by gateways, TCP, names."""
