"""A server bounds what it allows its clients in connections, time and size.  Pure."""

import attrs

#: Shares of the process's files that the connections of each port may use, as divisors, with the
#: least and the most that such a share can be.
API_SHARE, API_LEAST, API_MOST = 4, 16, 512
METRICS_SHARE, METRICS_LEAST, METRICS_MOST = 16, 4, 64


@attrs.frozen
class Bounds:
    """The bounds of one port; times in seconds, sizes in bytes."""

    #: Connections at a time.
    connections: int = API_MOST
    #: TLS must be agreed on within this time.
    handshake_s: float = 10.0
    #: A connection without a request is kept for so long.
    idle_s: float = 60.0
    #: The head of a request must be whole this long after its first byte.
    head_s: float = 10.0
    #: The body of a request must be whole this long after its head.
    body_s: float = 60.0
    #: A client that takes nothing of its answer for so long is gone.
    send_s: float = 30.0
    #: So long may an answer take for a client that has ended what it sends, and may have gone.
    half_closed_s: float = 5.0
    #: Seconds of silence after which a client has to make room for a new one.
    patience_s: float = 1.0
    #: The largest request line and headers.
    head_bytes: int = 16 << 10
    #: Bodies above this size are received only while all together stay below `bodies_bytes`.
    small_body_bytes: int = 64 << 10
    bodies_bytes: int = 64 << 20


def api_connections(files: int) -> int:
    """Return how many connections the API may have in a process that may have so many files."""
    return max(API_LEAST, min(API_MOST, files // API_SHARE))


def metrics_connections(files: int) -> int:
    """Return how many connections the metrics' port may have with so many `files`."""
    return max(METRICS_LEAST, min(METRICS_MOST, files // METRICS_SHARE))
