"""The status page of a relay, for its operator: what is here now and how it came about, behind a token.

Its numbers are those of `/metrics`, read from the very text: the two cannot differ. docs/operate.md is its manual.
"""
