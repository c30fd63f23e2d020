"""What the emulators share: calls and their faults, validation by JSON Schema, tasks, files and webhooks."""
