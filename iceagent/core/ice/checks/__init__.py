"""Connectivity checks: sent in their slots, answered, and what an answer means."""
