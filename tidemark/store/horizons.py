"""The statement that says of stored points what each horizon would give; `tidemark.store.advice` says by which model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tidemark.store.expressions import microseconds_of, moment_of, seconds

HORIZONS_S: Final = (0, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400)
TARGETS: Final = (0.99, 0.999)
YOUNG: Final = 10
"""Windows of the last tenth of the time that is looked at are left out: late points of theirs may yet come."""
ASKED: Final = "series.project = a.project AND (a.sources IS NULL OR series.source = ANY(a.sources))"
"""The SQL that is true of a series that is asked for, beside the row a of what is asked."""


def chosen(most: str) -> str:
    """The SQL of so many of the series that are asked for at most, each with its place in the order of a hash."""
    return f"""
        SELECT series_id, row_number() OVER (ORDER BY hash, series_id) - 1 AS place FROM (
            SELECT series_id, {_hash("series_id")} AS hash FROM series WHERE {ASKED}
            ORDER BY hash, series_id LIMIT {most}
        ) s ORDER BY place"""


_DEBOUNCE: Final = "(SELECT debounce_s FROM asked)"


def advice_sql(place: Callable[[int], str]) -> str:
    """The statement whose only row `tidemark.store.advice.advice` reads.

    It reads cells, each some minutes or more of a series, the newest points first, until there are points enough: so windows
    are whole, but for the last, which is left out then. Series go in the order of a hash, and round by round each has another
    of its cells, a step further. Series of a group have the same at once, since points that came together lie together. Of
    each series in a window it has the lateness of the first and the last point, and of all that came after the window's end;
    then of each horizon how many are complete, and by which stretches of horizons (from `low` on, below `high`) how often they
    are corrected.

    Its parameters: the project; names of its sources, or null for all of them; the length of a window, the horizon, the
    debounce and the length of a cell, in seconds; which cell since 1970 is the first, how many there are, the step, how many
    rounds, how many groups; most series, most points; from which event time until which, and the clock, in microseconds since
    1970; the first two again in seconds, so that a hypertable leaves out its other chunks.

    Args:
        place: How the n-th parameter is written, from 1 on: `pyformat` or `numbered` of `tidemark.store.expressions`.
    """
    bin_ = "date_bin({0}, {1}, to_timestamp(0))".format
    return f"""
        WITH asked AS MATERIALIZED (
            SELECT a.*, {seconds("a.width_s")} AS width
            FROM (
                SELECT CAST({place(1)} AS text) AS project, CAST({place(2)} AS text[]) AS sources,
                       CAST({place(3)} AS integer) AS width_s, CAST({place(4)} AS float8) AS horizon_s,
                       CAST({place(5)} AS float8) AS debounce_s, CAST({place(6)} AS bigint) AS cell_s,
                       CAST({place(7)} AS bigint) AS first_cell, CAST({place(8)} AS bigint) AS cells,
                       CAST({place(9)} AS bigint) AS step, CAST({place(10)} AS bigint) AS rounds,
                       CAST({place(11)} AS bigint) AS groups, CAST({place(12)} AS bigint) AS series,
                       CAST({place(13)} AS integer) AS points, {moment_of(place(14))} AS start, {moment_of(place(15))} AS until,
                       {moment_of(place(16))} AS now
            ) a
        ), cells AS MATERIALIZED (
            SELECT c.place, c.series_id, greatest(c.start, a.start) AS start, least(c.start + {seconds("a.cell_s")}, a.until) AS until
            FROM asked a CROSS JOIN LATERAL (
                SELECT s.series_id, round * a.series + s.place AS place, to_timestamp(
                    (a.first_cell + mod(mod(s.begin + round * a.step - a.first_cell, a.cells) + a.cells, a.cells)) * a.cell_s
                ) AS start
                FROM ({chosen("a.series")}) h
                CROSS JOIN LATERAL (
                    SELECT h.series_id, h.place, {_hash("h.place * a.groups / a.series")} AS begin
                ) s CROSS JOIN generate_series(0, a.rounds - 1) AS round
            ) c ORDER BY c.place
        ), found AS MATERIALIZED (
            SELECT c.place, c.series_id, {bin_("(SELECT width FROM asked)", "p.event_time")} AS start, p.publish_time
            FROM cells c CROSS JOIN LATERAL (
                SELECT q.event_time, q.publish_time FROM points q
                WHERE q.series_id = c.series_id AND q.event_time >= c.start AND q.event_time < c.until
                AND q.event_time >= to_timestamp(CAST({place(17)} AS float8))
                AND q.event_time < to_timestamp(CAST({place(18)} AS float8))
                ORDER BY q.event_time DESC OFFSET 0
            ) p LIMIT (SELECT points FROM asked)
        ), cut AS MATERIALIZED (
            SELECT l.place, l.points = a.points AS sampled, (SELECT min(start) FROM found WHERE place = l.place) AS start
            FROM (SELECT count(*) AS points, max(place) AS place FROM found) l CROSS JOIN asked a
        ), arrivals AS MATERIALIZED (
            SELECT f.place, f.series_id, f.start, date_part('epoch', f.publish_time - f.start) - a.width_s AS late
            FROM found f CROSS JOIN cut CROSS JOIN asked a
            WHERE NOT (cut.sampled AND f.place = cut.place AND f.start = cut.start)
        ), windows AS MATERIALIZED (
            SELECT place, start, min(late) AS first, max(late) AS last, array_agg(late) FILTER (WHERE late > 0) AS late
            FROM arrivals GROUP BY place, start
        ), judged AS MATERIALIZED (
            SELECT w.start, {bin_("a.width", f"least(a.until, a.now - (a.now - w.start) / {YOUNG:d})")} AS until
            FROM (SELECT min(start) AS start FROM windows) w CROSS JOIN asked a
        ), pairs AS MATERIALIZED (
            SELECT w.*, greatest(0, CASE WHEN last <= gathered THEN first ELSE last END) AS complete_s
            FROM (
                SELECT w.*, min(first) OVER o AS opening, min(first) OVER o + a.debounce_s AS gathered
                FROM windows w CROSS JOIN asked a CROSS JOIN judged j WHERE w.start + a.width <= j.until
                WINDOW o AS (PARTITION BY w.start)
            ) w
        ), targets AS MATERIALIZED (
            SELECT ceil(t.s) AS horizon_s, t.number FROM unnest((
                SELECT percentile_disc(ARRAY{list(TARGETS)}::float8[]) WITHIN GROUP (ORDER BY complete_s) FROM pairs
            )) WITH ORDINALITY AS t(s, number)
        ), grid AS MATERIALIZED (
            SELECT array_agg(DISTINCT -horizon_s ORDER BY -horizon_s) AS below FROM (
                SELECT unnest(ARRAY{list(HORIZONS_S)}::float8[]) AS horizon_s
                UNION ALL SELECT horizon_s FROM asked UNION ALL SELECT horizon_s FROM targets
            ) h
        ), late AS MATERIALIZED (
            SELECT p.place, p.start, l.late, p.first, p.opening, p.gathered, lag(l.late) OVER w AS before,
                   first_value(l.late) OVER (w RANGE BETWEEN {_DEBOUNCE} PRECEDING AND CURRENT ROW) AS marked
            FROM pairs p CROSS JOIN unnest(p.late) AS l(late) WINDOW w AS (PARTITION BY p.place, p.start ORDER BY l.late)
        ), settled AS MATERIALIZED (
            SELECT l.*, count(*) FILTER (WHERE fresh) OVER w AS number, count(*) FILTER (WHERE fresh) OVER (PARTITION BY place, start) AS all_
            FROM (
                SELECT late.*, marked IS DISTINCT FROM lag(marked) OVER w AS fresh FROM late
                WINDOW w AS (PARTITION BY place, start ORDER BY late)
            ) l WINDOW w AS (PARTITION BY place, start ORDER BY late)
        ), stretches AS (
            SELECT CASE WHEN before > gathered THEN before WHEN before IS NULL AND first > 0 THEN 0 ELSE opening END AS low,
                   CASE WHEN late > gathered THEN late WHEN before IS NULL AND first > 0 THEN opening END AS high,
                   1 + all_ - last_value(number) OVER (
                       PARTITION BY place, start ORDER BY late RANGE BETWEEN CURRENT ROW AND {_DEBOUNCE} FOLLOWING
                   ) AS corrections
            FROM settled
            UNION ALL
            SELECT opening, first, 1 FROM pairs WHERE first > 0 AND first <= gathered
        ), counted AS (
            SELECT k, sum(complete) AS complete, sum(corrections) AS corrections FROM (
                SELECT width_bucket(-complete_s, below) AS k, 1 AS complete, 0 AS corrections FROM pairs CROSS JOIN grid
                UNION ALL
                SELECT b.k, 0, b.corrections FROM stretches s CROSS JOIN grid CROSS JOIN LATERAL (VALUES
                    (width_bucket(-greatest(s.low, 0), below), s.corrections), (width_bucket(-s.high, below), -s.corrections)
                ) b(k, corrections) WHERE s.high > greatest(s.low, 0)
            ) c GROUP BY k
        ), curve AS (
            SELECT -below[k] AS horizon_s, coalesce(sum(complete) OVER w, 0) AS complete, coalesce(sum(corrections) OVER w, 0) AS corrections
            FROM grid CROSS JOIN generate_series(1, cardinality(below)) k LEFT JOIN counted USING (k) WINDOW w AS (ORDER BY k DESC)
        )
        SELECT (SELECT json_agg(json_build_array(horizon_s, complete, corrections) ORDER BY horizon_s)::text FROM curve),
               (SELECT json_agg(horizon_s ORDER BY number)::text FROM targets),
               (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY gathered) FROM pairs),
               (SELECT count(*) FROM pairs), (SELECT count(*) FROM arrivals), (SELECT count(DISTINCT series_id) FROM arrivals),
               (SELECT {microseconds_of("start")} FROM judged), (SELECT {microseconds_of("until")} FROM judged),
               (SELECT sum(date_part('epoch', c.until - CASE WHEN cut.sampled AND c.place = cut.place THEN cut.start + a.width ELSE c.start END))
                FROM cells c CROSS JOIN cut CROSS JOIN asked a WHERE NOT cut.sampled OR c.place <= cut.place)"""


def _hash(number: str) -> str:
    """A whole number from 0 to 2^32 - 1, which only depends on that number."""
    return f"('x' || left(md5(({number})::text), 8))::bit(32)::bigint"
