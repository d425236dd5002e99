"""A query is what a filter with its options asks for: the WHERE, the order and the limit."""

from collections.abc import Mapping
from typing import Any

import attrs

from rebalancer_devregion.moray import filters
from rebalancer_devregion.moray.buckets import Bucket
from rebalancer_devregion.moray.errors import MorayError, indexes_required, invalid_query
from rebalancer_devregion.moray.filters import Filter
from rebalancer_devregion.moray.where import Where, compile_where

DEFAULT_LIMIT = 1000


@attrs.frozen
class Query:
    """A query has a filter, its first stage on a bucket's indexes, and which rows are wanted."""

    found: Filter
    where: Where
    order: str
    limit: str

    @property
    def rest(self) -> str:
        """Return the end of a statement for sqlite."""
        order = self.order
        if "_id " not in order:
            # In PostgreSQL null is above all values.  Ids are left to sqlite's index of them.
            order = order.replace(" ASC", " ASC NULLS LAST").replace(" DESC", " DESC NULLS FIRST")
        limit = self.limit.replace(" OFFSET", " LIMIT -1 OFFSET", " LIMIT" not in self.limit)
        return f"WHERE {self.where.for_sqlite}{order}{limit}"

    def statements(self, bucket: str, request_id: str) -> dict[str, Any]:
        """Return what `sql_only` shows."""
        end = f"FROM {bucket} WHERE {self.where.text}{self.order}{self.limit}"
        return {
            "count": f"SELECT count(1) over () as _count, '{request_id}' AS req_id {end}",
            "query": f"SELECT *, '{request_id}' AS req_id {end}",
            "args": list(self.where.values),
        }


def read_query(
    bucket: Bucket, text: str, options: Mapping[str, Any], *, indexed_only: bool
) -> Query:
    """Return the query of a filter; `indexed_only` refuses one that needs a second stage.

    Raises:
      MorayError: InvalidQueryError, NotIndexedError, `error` for an unknown column to sort by.
    """
    found = parse(text)
    named = [name for name in filters.fields(found) if not name.startswith("_")]
    unindexed = [name for name in named if name not in bucket.index]
    reindexing = [name for name in named if name in bucket.incomplete]
    if indexed_only and (unindexed or reindexing):
        raise indexes_required(bucket.name, text, reindexing, unindexed)
    where = compile_where(bucket.name, found, bucket.usable)
    if where is None:
        raise invalid_query(text)
    return Query(found, where, _order(options), _limit(options))


def parse(text: str) -> Filter:
    """Read a filter.

    Raises:
      MorayError: InvalidQueryError; `Error` for a comparison that the server cannot do.
    """
    try:
        return filters.parse(text)
    except filters.InvalidFilter as exc:
        raise invalid_query(text) from exc
    except filters.Approximate as exc:
        raise MorayError("Error", "approximate comparison is not supported") from exc


def _order(options: Mapping[str, Any]) -> str:
    sort = options.get("sort") or []
    entries = sort if isinstance(sort, list) else [sort]
    terms = []
    for entry in entries:
        attribute, order = str(entry.get("attribute")), str(entry.get("order", "ASC")).upper()
        if not attribute.isidentifier() or attribute.lower() == "_idx":
            raise MorayError("error", f'column "{attribute.lower()}" does not exist')
        terms.append(f"{attribute} {order}")
    return f" ORDER BY {', '.join(terms)}" if terms else ""


def _limit(options: Mapping[str, Any]) -> str:
    # As the server puts them together: 0 is no limit given, "0" is a limit of none.
    limit = options.get("limit") or DEFAULT_LIMIT
    offset = options.get("offset") or 0
    has_limit = options.get("limit") or not options.get("noLimit")
    text = f" LIMIT {int(limit)}" if has_limit else ""
    return text + (f" OFFSET {int(offset)}" if int(offset) else "")
