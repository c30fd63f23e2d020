"""Prints which cases are not asked of which adapter, and why: ``make conformance-gaps``."""

from __future__ import annotations

import sys

from conformance.subjects import SUBJECTS, Subject


def listing() -> str:
    """For each subject how many cases have no meaning, and below it the cases by reason."""
    return "\n".join(line for subject in SUBJECTS for line in _lines(subject)) + "\n"


def _lines(subject: Subject) -> list[str]:
    gaps = subject.meaningless()
    reasons = dict.fromkeys(gaps.values())
    by_reason = {reason: sorted(case for case, why in gaps.items() if why == reason) for reason in reasons}
    return [f"{subject.name}: {len(gaps)}", *(f"  {', '.join(cases)}: {why}" for why, cases in by_reason.items())]


if __name__ == "__main__":
    sys.stdout.write(listing())
