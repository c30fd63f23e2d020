"""Replicate's HTTP API: predictions, models, streams and callbacks."""
