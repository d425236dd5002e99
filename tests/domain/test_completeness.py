"""What a job has yet to look at, decided from any table of scans."""

import attrs
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain.completeness import LAST_COLUMN, NO_SHARD, NeededScan, needed, unfinished

SHARDS, ROUNDS, COLUMNS = range(1, 5), range(3), ("_id", "_idx", LAST_COLUMN)


@attrs.frozen
class Row:
    shard: int
    column: str
    position: int
    until: int
    round: int = 0


def finished(shard: int, scan_round: int = 0) -> list[Row]:
    return [Row(shard, column, 9, 9, scan_round) for column in COLUMNS]


@st.composite
def tables(draw: st.DrawFn) -> dict[tuple[int, int, str], tuple[int, int]]:
    places = st.tuples(st.sampled_from(ROUNDS), st.sampled_from(SHARDS), st.sampled_from(COLUMNS))
    spans = st.integers(0, 3).flatmap(
        lambda until: st.tuples(st.integers(0, until), st.just(until))
    )
    return draw(st.dictionaries(places, spans))


@given(tables(), st.sets(st.sampled_from(SHARDS)), st.integers(1, 3))
def test_nothing_is_finished_but_what_was_scanned_to_its_end(
    table: dict[tuple[int, int, str], tuple[int, int]], shards: set[int], rounds: int
) -> None:
    """A shard has finished a round if its last column has, and none of the others is half way."""
    rows = [Row(s, c, position, until, r) for (r, s, c), (position, until) in table.items()]
    left = unfinished(needed(shards, range(rounds)), rows)
    assert left == sorted(set(left))
    for number in range(rounds):
        for shard in shards:
            spans = {c: table.get((number, shard, c)) for c in COLUMNS}
            last = spans[LAST_COLUMN]
            is_whole = all(span is None or span[0] == span[1] for span in spans.values())
            is_finished = last is not None and is_whole
            assert (NeededScan(number, shard) not in left) == is_finished


@given(st.sets(st.sampled_from(SHARDS), min_size=1), st.integers(1, 3), st.data())
def test_taking_away_any_row_of_a_finished_scan_leaves_no_job_complete(
    shards: set[int], rounds: int, data: st.DataObject
) -> None:
    """Nor does setting one back, and it is this shard in this round that is named."""
    rows = [row for r in range(rounds) for shard in shards for row in finished(shard, r)]
    parts = needed(shards, range(rounds))
    assert unfinished(parts, rows) == []
    index = data.draw(st.integers(0, len(rows) - 1))
    lost = rows[index]
    half = attrs.evolve(lost, position=4)
    assert unfinished(parts, [*rows[:index], half, *rows[index + 1 :]]) == [
        NeededScan(lost.round, lost.shard)
    ]
    if lost.column == LAST_COLUMN:
        left = unfinished(parts, [*rows[:index], *rows[index + 1 :]])
        assert left == [NeededScan(lost.round, lost.shard)]


def test_each_part_of_a_listing_has_its_own_end() -> None:
    """One that is half way says nothing of the others; one that is not there was not begun."""
    parts = needed((), (0,), ("objects", "links", "file"))
    rows = [Row(NO_SHARD, "objects", 0, 0), Row(NO_SHARD, "links", 1, 2)]
    assert unfinished(parts, rows) == [
        NeededScan(0, NO_SHARD, "file"),
        NeededScan(0, NO_SHARD, "links"),
    ]
