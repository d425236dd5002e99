"""This module has the SQL about the rows of a shard of the buckets tier.  Pure.

A schema has the rows of one vnode.  Rows come back as JSON objects with the names, and the forms,
that buckets-mdapi gives the columns; numbers keep their digits.  Windows go by the primary key, the
only index there is, in the order that the key itself has, whatever its collation.
"""

#: The schemas that are a vnode's, and have its table.
VNODES = """
    SELECT substr(nspname, 14) AS vnode FROM pg_namespace
    JOIN pg_class ON relnamespace = pg_namespace.oid
    WHERE nspname ~ '^manta_bucket_(0|[1-9][0-9]*)$'
    AND relname = 'manta_bucket_object' AND relkind IN ('r', 'p')
"""
#: Those of them whose objects the session's role may not update.
FORBIDDEN = f"""{VNODES}
    AND NOT (has_schema_privilege(pg_namespace.oid, 'USAGE')
        AND has_column_privilege(pg_class.oid, 'sharks', 'UPDATE'))
"""
#: The objects, and the deleted ones whose files are garbage: tables of a schema, with what names
#: a row of each.
OBJECTS, DELETED = "manta_bucket_object", "manta_bucket_deleted_object"
KEY = ("owner", "bucket_id", "name")
#: An object may have been deleted several times under one name, each time with another id.
DELETED_KEY = (*KEY, "id")

_TYPES = {"owner": "uuid", "bucket_id": "uuid", "name": "text", "id": "uuid"}
_STAMP = '\'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\''
#: The columns of an object, as a row has them; `infinity` is no time that to_char can spell.
COLUMNS = f"""
    id, name, owner, bucket_id,
    coalesce(to_char(created AT TIME ZONE 'UTC', {_STAMP}), created::text) AS created,
    coalesce(to_char(modified AT TIME ZONE 'UTC', {_STAMP}), modified::text) AS modified,
    content_length, replace(encode(content_md5, 'base64'), chr(10), '') AS content_md5,
    content_type, hstore_to_json(headers) AS headers, sharks, properties
"""
#: A shark's text between two colons names the node, whether the entry is well formed or not.  To
#: cut all texts costs twice as much as to look for the name in them.
NAMED = """
    (position($1 in array_to_string(sharks, ':')) > 0
    AND $1 = ANY (string_to_array(array_to_string(sharks, ':'), ':')))
"""
#: The record of an upload names nodes within the texts of two headers.
_MENTIONED = """
    (headers ?| ARRAY['x-upload-record', 'x-preallocated-sharks'] AND
    position($1 in concat(headers -> 'x-upload-record', headers -> 'x-preallocated-sharks')) > 0)
"""


def table(vnode: int, name: str = OBJECTS) -> str:
    """Return the name of a table of a vnode's schema."""
    return f"manta_bucket_{vnode:d}.{name}"


def rows_estimate(vnode: int) -> str:
    """Return the statement for how many rows a vnode may have, as of the last ANALYZE."""
    return (
        "SELECT greatest(reltuples, 0)::bigint AS rows FROM pg_class"
        f" WHERE oid = '{table(vnode)}'::regclass"
    )


def window(vnode: int, limit: int, *, is_first: bool, uploads: bool) -> str:
    """Return the statement for the rows of a window that mention the node $1.

    With `uploads`, records of uploads that mention it too.

    It begins behind the key $2, $3, $4, unless it is the first.  Its `limit` comes before the
    filter: else one statement could read a whole table.  The last row of the window comes too,
    whatever it names, and says how many were looked at.  No row at all comes from behind the last.
    """
    where = f"{NAMED} OR {_MENTIONED}" if uploads else NAMED
    return _single_line(f"""
        SELECT number, is_last, row_to_json(kept)::text AS record FROM (
            SELECT *, row_number() OVER by_key AS number, lead(1) OVER by_key IS NULL AS is_last
            FROM ({_looked(vnode, OBJECTS, KEY, limit, is_first=is_first)}) AS looked
            WINDOW by_key AS (ORDER BY {", ".join(KEY)})
        ) AS numbered CROSS JOIN LATERAL (SELECT {COLUMNS} WHERE is_last OR {where}) AS kept
    """)


def deleted_window(vnode: int, limit: int, *, is_first: bool) -> str:
    """Return the statement for how many deleted rows of a window mention the node $1.

    It begins behind the key $2, $3, $4, $5, unless it is the first.
    """
    key = ", ".join(f"{name} DESC" for name in DELETED_KEY)
    return _single_line(f"""
        WITH looked AS ({_looked(vnode, DELETED, DELETED_KEY, limit, is_first=is_first)})
        SELECT owner::text, bucket_id::text, name, id::text, looked, named FROM (
            SELECT owner, bucket_id, name, id, count(*) OVER () AS looked,
                count(*) FILTER (WHERE {NAMED}) OVER () AS named
            FROM looked ORDER BY {key} LIMIT 1
        ) AS last
    """)


def _looked(vnode: int, name: str, key: tuple[str, ...], limit: int, *, is_first: bool) -> str:
    # The limit stands in the text: a plan for any limit would be one that sorts the table.
    columns = ", ".join(key)
    where = ""
    if not is_first:
        values = ", ".join(f"${n}::{_TYPES[column]}" for n, column in enumerate(key, 2))
        where = f"WHERE ({columns}) > ({values})"
    return f"SELECT * FROM {table(vnode, name)} {where} ORDER BY {columns} LIMIT {limit:d}"


def rows_of(vnode: int) -> str:
    """Return the statement for rows by their keys: lists of owners $1, bucket ids $2, names $3."""
    return _single_line(f"""
        WITH looked AS (
            SELECT looked.* FROM unnest($1::uuid[], $2::uuid[], $3::text[])
            AS wanted (owner, bucket_id, name) JOIN {table(vnode)} AS looked
            USING (owner, bucket_id, name)
        )
        SELECT row_to_json(kept)::text AS record FROM (SELECT {COLUMNS} FROM looked) AS kept
    """)


def existing(vnode: int) -> str:
    """Return the statement for which of the keys exist: lists $1, $2, $3 as of `rows_of`."""
    return _single_line(f"""
        SELECT owner::text, bucket_id::text, name
        FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS wanted (owner, bucket_id, name)
        JOIN {table(vnode)} USING (owner, bucket_id, name)
    """)


def update(vnode: int) -> str:
    """Return the statement that gives a row the sharks $1 if id and sharks are still $5 and $6."""
    return _single_line(f"""
        UPDATE {table(vnode)} SET sharks = $1::text[]
        WHERE owner = $2::uuid AND bucket_id = $3::uuid AND name = $4::text
        AND id = $5::uuid AND sharks = $6::text[]
    """)


def _single_line(statement: str) -> str:
    return " ".join(statement.split())
