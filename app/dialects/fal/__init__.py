"""fal's API: its queue under /fal/queue, its synchronous host under /fal/run (docs/clients-fal.md)."""
