"""Emulators of the upstreams that speak the real wire contracts, for demos, tests, benchmarks and chaos runs.

The package shares no code with the product it tests: an adapter and its emulator are wrong in the same way only where
the contract is.
"""
