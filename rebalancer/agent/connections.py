"""This module keeps connections to sources, within one bound for all of them."""

import errno
import os
import resource
import select
from collections import OrderedDict

import attrs
import trio

#: Connections at a time, in use and kept, if the process may have many files.
MOST = 512
#: Files that a process needs for itself, and those that go with a connection: the socket, the
#: file that it fills, and what a look-up of its name opens.
OWN_FILES, FILES_EACH = 48, 3
#: Kept connections to one source.
KEPT_EACH = 16
#: A connection that nobody used for so many seconds is closed; sources mostly do so after 60.
AGE_S = 45.0
#: Seconds between looks for those that are too old, or that their source has closed.
TIDY_S = 5.0


def most_connections() -> int:
    """Return how many connections this process may have, by its limit of files."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return MOST
    return max(2, min(MOST, (limit - OWN_FILES) // FILES_EACH))


def is_short_of_files() -> bool:
    """Tell whether the process, or the machine, cannot open one more file now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as exc:
        return exc.errno in (errno.EMFILE, errno.ENFILE)
    return False


@attrs.define(eq=False)
class Connections:
    """The connections of one fetcher.

    Mutable state: the kept ones, the one kept for longest first, with their sources and since
    when; the kept ones of each source; leave to use so many at a time.
    """

    most: int = attrs.field(factory=most_connections)
    turns: trio.CapacityLimiter = attrs.field(init=False)
    _kept: OrderedDict[trio.SocketStream, tuple[str, float]] = attrs.field(factory=OrderedDict)
    _by_source: dict[str, list[trio.SocketStream]] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        """Start with no connection in use."""
        self.turns = trio.CapacityLimiter(self.most)

    def __len__(self) -> int:
        """Return how many connections are kept."""
        return len(self._kept)

    def take(self, source: str) -> trio.SocketStream | None:
        """Take a kept connection to `source` that is fit for use; None if there is none."""
        while (streams := self._by_source.get(source)) is not None:
            stream = streams[-1]
            self._forget(stream)
            if is_quiet(stream):
                return stream
            stream.socket.close()
        return None

    def keep(self, source: str, stream: trio.SocketStream) -> None:
        """Keep a connection that is not used any more, or close it."""
        if len(self._by_source.get(source, ())) >= KEPT_EACH:
            stream.socket.close()
            return
        self._kept[stream] = source, trio.current_time()
        self._by_source.setdefault(source, []).append(stream)
        self.make_room()

    def make_room(self) -> None:
        """Close kept connections until they and those in use are no more than allowed."""
        while self._kept and len(self._kept) + self.turns.borrowed_tokens > self.most:
            self._close(next(iter(self._kept)))

    def tidy(self) -> None:
        """Close kept connections that are too old, or that their source has closed or spoilt."""
        before = trio.current_time() - AGE_S
        for stream in [stream for stream, (_, since) in self._kept.items() if since <= before]:
            self._close(stream)
        waiting = select.poll()
        by_number = {stream.socket.fileno(): stream for stream in self._kept}
        for number in by_number:
            waiting.register(number, select.POLLIN)
        for number, _ in waiting.poll(0):
            self._close(by_number[number])

    def close(self) -> None:
        """Close all kept connections."""
        for stream in list(self._kept):
            self._close(stream)

    async def run(self) -> None:
        """Look after the kept connections for ever."""
        while True:
            await trio.sleep(TIDY_S)
            self.tidy()

    def _forget(self, stream: trio.SocketStream) -> None:
        source, _ = self._kept.pop(stream)
        streams = self._by_source[source]
        streams.remove(stream)
        if not streams:
            del self._by_source[source]

    def _close(self, stream: trio.SocketStream) -> None:
        self._forget(stream)
        stream.socket.close()


def is_quiet(stream: trio.SocketStream) -> bool:
    """Tell whether a source has neither closed a connection nor sent anything unasked."""
    waiting = select.poll()
    waiting.register(stream.socket.fileno(), select.POLLIN)
    return not waiting.poll(0)
