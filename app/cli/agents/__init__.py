"""``darkroom mcp``: the service as tools of an agent, by the Model Context Protocol.

The room is a client of the HTTP API as every command is; it holds no state that a job depends on. It alone imports
``mcp``, when its command runs (docs/clients-mcp.md).
"""
