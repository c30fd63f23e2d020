"""The proof under fire: load through the public API, a seeded monkey at every process, then the books.

Nothing imports this package but its command, ``darkroom chaos``.
"""
