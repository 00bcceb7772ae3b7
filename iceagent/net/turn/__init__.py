"""TURN's client side on Trio: finding a server, its transports, allocations, and relayed addresses as sockets."""
