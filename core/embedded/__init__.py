"""Our own PostgreSQL and Redis, from pip wheels, and the supervisor that keeps processes alive.

Knows programs, folders and ports; which programs make up the service is said by ``app.cli``.
"""
