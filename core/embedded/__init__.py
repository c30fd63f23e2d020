"""Our own PostgreSQL and Redis, from pip wheels, and the supervisor that keeps processes alive.

It handles programs, folders and ports; ``app/cli/service`` says which programs make up the service.
"""
