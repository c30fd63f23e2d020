"""The guarded way out: URLs from outside, the addresses they may lead to, and one clock for each request.

Imports nothing of ours, so that ``providers``, which is a leaf, can use it next to ``jobs`` and ``webhooks``.
"""
