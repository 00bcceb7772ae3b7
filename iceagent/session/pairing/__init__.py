"""Peers that know each other: identities, the words that two people compare, pairing, and meeting without a code."""
