"""Stand-in upstreams that speak the real wire contracts, for demos, tests, benchmarks and chaos runs.

The package shares no code with the product it tests: an adapter and its twin may be wrong in the same way
only if both were told the same lie by the contract sheet.
"""
