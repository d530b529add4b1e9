"""The ledger: what became of every point received, a row a transaction."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection


class Totals(NamedTuple):
    """Sums of the ledger, in points; an undecodable message counts one.

    Attributes:
        received, redriven, inserted, overwritten, ignored, dead_lettered: The first two are the sum of the others in every
            row; redriven are points that were written out of dead letters.
        removed: By retention or deletion.
        unbalanced: Rows in which that sum is wrong.
    """

    received: int
    redriven: int
    inserted: int
    overwritten: int
    ignored: int
    dead_lettered: int
    removed: int
    unbalanced: int


def totals(connection: Connection) -> Totals:
    """Add the ledger up."""
    row = connection.exec_driver_sql(
        """SELECT coalesce(sum(received), 0)::bigint, coalesce(sum(redriven), 0)::bigint,
                  coalesce(sum(inserted), 0)::bigint,
                  coalesce(sum(overwritten), 0)::bigint, coalesce(sum(ignored), 0)::bigint,
                  coalesce(sum(dead_lettered), 0)::bigint, coalesce(sum(removed), 0)::bigint,
                  count(*) FILTER (WHERE received + redriven <> inserted + overwritten + ignored + dead_lettered)
           FROM ledger"""
    ).one()
    return Totals(*row)
