"""The sans-IO core: bytes, events and explicit time; no trio, socket, clock, randomness or logging of its own."""
