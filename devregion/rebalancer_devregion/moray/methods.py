"""This module has Moray's methods on one shard: their arguments, and the rows of their answers.

`listen` and `unlisten` are the server's own, because they wait.
"""

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from rebalancer_devregion.moray.arguments import check_arguments
from rebalancer_devregion.moray.errors import MorayError
from rebalancer_devregion.moray.records import ABSENT
from rebalancer_devregion.moray.store import ShardStore

VERSION = 2
#: What `sendHandledOptions` tells a client that `findObjects` knows, in the server's order.
FIND_OPTIONS = (
    *("req_id", "limit", "offset", "sort", "noLimit", "no_count", "sql_only"),
    *("noBucketCache", "timeout", "requireOnlineReindexing", "requireIndexes"),
)
GET_OPTIONS = ("req_id", "timeout", "noCache", "noBucketCache")

Options = Mapping[str, Any]


@attrs.frozen
class Method:
    """A method has the names of its arguments, what it does, and whether it writes.

    `run` takes the store and the arguments.
    """

    arguments: tuple[str, ...]
    run: Callable[..., list[Any]]
    writes: bool = False


def find_method(name: str, args: list[Any], message_id: int) -> Method:
    """Return the method of a request whose arguments are right.

    Raises:
      MorayError: FastError if there is no such method, InvocationError.
    """
    method = METHODS.get(name)
    if method is None:
        info = {"fastReason": "bad_method", "rpcMethod": name, "rpcMsgid": message_id}
        raise MorayError("FastError", f'unsupported RPC method: "{name}"', info=info)
    check_arguments(name, method.arguments, args)
    return method


def headers_of(name: str, args: list[Any]) -> list[Mapping[str, Any]]:
    """Return the headers that a request hands to the triggers of its buckets."""
    if name not in ("putObject", "batch"):
        return []
    requests = args[0] if name == "batch" else []
    options = [args[-1], *(request.get("options", {}) for request in requests)]
    return [one["headers"] for one in options if "headers" in one]


def _handled(options: Options, known: tuple[str, ...]) -> list[Any]:
    wants = options.get("internalOpts", {}).get("sendHandledOptions")
    return [{"_handledOptions": list(known)}] if wants else []


def _put(store: ShardStore, bucket: str, key: str, value: Any, options: Options) -> list[Any]:
    return [{"etag": store.put(bucket, key, value, options.get("etag", ABSENT), options)}]


def _get(store: ShardStore, bucket: str, key: str, options: Options) -> list[Any]:
    return [*_handled(options, GET_OPTIONS), store.get(bucket, key, options)]


def _find(store: ShardStore, bucket: str, text: str, options: Options) -> list[Any]:
    return [*_handled(options, FIND_OPTIONS), *store.find(bucket, text, options)]


def _delete(store: ShardStore, bucket: str, key: str, options: Options) -> list[Any]:
    # `_etag` counts here only.
    store.delete(bucket, key, options.get("etag", options.get("_etag", ABSENT)), options)
    return [{}]


def _update_many(
    store: ShardStore, bucket: str, fields: Options, text: str, options: Options
) -> list[Any]:
    count, etag = store.update_many(bucket, fields, text, options)
    return [{"count": count, "etag": etag}]


def _no_tokens(_store: ShardStore, _options: Options) -> list[Any]:
    raise MorayError("Error", "Operation not supported")


def _done(effect: Callable[..., Any]) -> Callable[..., list[Any]]:
    """Return a method that answers with no rows."""

    def run(*args: Any) -> list[Any]:
        effect(*args)
        return []

    return run


def _nothing(_store: ShardStore, *_args: Any) -> list[Any]:
    return []


def _drop_options(effect: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        return effect(*args[:-1])

    return run


METHODS: Mapping[str, Method] = {
    "createBucket": Method(
        ("bucket", "config", "options"), _done(_drop_options(ShardStore.create_bucket)), True
    ),
    "getBucket": Method(
        ("options", "bucket"), lambda store, _options, bucket: [store.bucket(bucket)]
    ),
    "listBuckets": Method(("options",), _drop_options(ShardStore.buckets)),
    "updateBucket": Method(("bucket", "config", "options"), _done(ShardStore.update_bucket), True),
    "delBucket": Method(
        ("bucket", "options"), _done(_drop_options(ShardStore.delete_bucket)), True
    ),
    "putObject": Method(("bucket", "key", "value", "options"), _put, True),
    "batch": Method(
        ("requests", "options"), lambda store, *args: [{"etags": store.batch(*args)}], True
    ),
    "getObject": Method(("bucket", "key", "options"), _get),
    "delObject": Method(("bucket", "key", "options"), _delete, True),
    "findObjects": Method(("bucket", "filter", "options"), _find),
    "updateObjects": Method(("bucket", "fields", "filter", "options"), _update_many, True),
    "reindexObjects": Method(
        ("bucket", "count", "options"), lambda store, *args: [store.reindex(*args)], True
    ),
    "deleteMany": Method(
        ("bucket", "filter", "options"),
        lambda store, *args: [{"count": store.delete_many(*args)}],
        True,
    ),
    "getTokens": Method(("options",), _no_tokens),
    "sql": Method(("statement", "values", "options"), ShardStore.sql),
    "ping": Method(("options",), _nothing),
    "version": Method(("options",), lambda _store, _options: [{"version": VERSION}]),
    "listen": Method(("channel", "options"), _nothing),
    "unlisten": Method(("id", "options"), _nothing),
}
