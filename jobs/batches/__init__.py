"""Batches: many orders at once, each submitted or refused by itself.

A batch is a row and the lines of a file. The feeder makes jobs of the lines in turn, by the same submission service as
every order; where it was killed, the next one goes on (docs/decisions/0088-a-batch-is-a-row-and-its-lines.md).

    validating -> in_progress -> finalizing -> completed
         |             |-> cancelling -> cancelled
         |             '-> finalizing -> expired       (its time was over)
         '-> failed                                    (its file is no batch)
"""
