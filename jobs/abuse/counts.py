"""What is counted of rules on abuse. The names of rules are the operator's: at most jobs.abuse.rules.MAX_RULES."""

from __future__ import annotations

from core.metrics.families import Counter

EVENTS = Counter("darkroom_abuse_events_total", "Rules on abuse that tripped, by rule and action.", ("rule", "action"))
PAUSED = Counter("darkroom_abuse_keys_paused_total", "Keys that a rule on abuse has paused.", ("rule",))
