"""Chaos runs: load through the public API, seeded faults at every process, then every promise checked.

Only its command, ``darkroom chaos``, imports this package.
"""
