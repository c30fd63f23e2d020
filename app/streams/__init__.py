"""Following jobs by server-sent events: one job, or all jobs of an account."""
