"""What is counted, for Prometheus: families by name, one file of values a process, one answer for all of a machine.

``families`` is all that code which counts needs. A process that serves calls :func:`core.metrics.slots.join` once.
"""
