"""One suite over every adapter: what :class:`providers.base.Provider` promises, asked of each against its emulator.

A new adapter is covered by one entry in :mod:`conformance.subjects`.
"""
