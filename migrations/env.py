"""Alembic's entry point. The caller hands in the connection; there is no URL and no offline mode."""

from __future__ import annotations

from alembic import context

import accounts.models
import jobs.abuse.models
import jobs.models
import quota.models
import webhooks.models
from core import key_values
from core.tables import metadata

# Named here so that a linter sees why they are imported: importing fills the metadata.
TABLES = (
    accounts.models.accounts,
    key_values.key_values,
    quota.models.balances,
    jobs.models.jobs,
    jobs.abuse.models.abuse_events,
    webhooks.models.webhook_messages,
)

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
