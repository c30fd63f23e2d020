"""Rules on what accounts, keys and addresses do: judged by one worker of the fleet, never on a request's way.

``rules`` are the operator's, ``overrides`` an account's own; ``figures`` reads what happened, ``judging`` compares,
``tripping`` writes down what tripped once a window, pauses keys and has the operator told.
"""
