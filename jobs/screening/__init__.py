"""Screening: whether what a caller asks for may be made here, judged before anything is kept, held or sent on.

A screen is one opinion (:class:`jobs.screening.subject.Screen`): a list of words, an HTTP hook of the operator, a
provider's moderation endpoint. :mod:`jobs.screening.screening` asks those that the operator has switched on, off any
database transaction; one refusal is enough (docs/decisions/0095-screens-judge-before-the-hold.md).
"""
