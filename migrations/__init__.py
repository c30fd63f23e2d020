"""The schema's history: one file a revision. ``core.schema`` applies it."""
