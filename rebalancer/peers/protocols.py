"""This module says what the manager needs of the services that it asks.

The clients in this package implement these protocols, and so do the fakes of tests; both pass the
same tests (`tests/peers/test_moray_conformance.py`, `tests/peers/test_agent_conformance.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rebalancer.agent_protocol import Assignment, AssignmentReport
from rebalancer.jsontext import JsonText
from rebalancer.peers import scan
from rebalancer.peers.agents import PostAnswer
from rebalancer.peers.metadata import Put, Record


class RecordStore(Protocol):
    """A record store reads and writes single records of one shard, conditionally on their etags."""

    async def get_object(self, bucket: str, key: str) -> Record | None:
        """Return the record as it is now, or None if there is none.

        Raises:
          MetadataError: the shard refused.
          PeerUnreachable: no answer came.
        """

    async def put_object(
        self, bucket: str, key: str, value: Mapping[str, Any] | JsonText, etag: str | None
    ) -> str:
        """Replace the record if its etag is `etag` (None: if there is none); return the new etag.

        Raises:
          MetadataError: `is_conflict` when the condition does not hold.
          PeerUnreachable: no answer came, and whether the record was written is unknown.
        """

    async def batch(self, puts: Sequence[Put]) -> None:
        """Write all records, or none: each put is conditional on its etag.

        Raises:
          MetadataError: the first put that failed, whose key is in `conflicting_key`.
          PeerUnreachable: no answer came, and whether the records were written is unknown.
        """


class LiveShard(scan.Scannable, RecordStore, Protocol):
    """A live shard is one of the metadata tier, whose records are scanned, read and written."""

    def resize(self, connections: int) -> None:
        """Have at most `connections` connections from now on."""


class CheckedStore(RecordStore, Protocol):
    """A checked store can be asked, before anything is copied, whether it takes updates."""

    async def check(self) -> None:
        """Return if it does.

        Raises:
          MetadataError: it takes none: it is too old, or read-only.
          PeerUnreachable: no answer came.
        """


class MorayShard(scan.DirectoryShard, LiveShard, Protocol):
    """A Moray is a live shard of the directory tier, which runs statements on its tables."""

    @property
    def name(self) -> str:
        """Return the shard's host name."""

    async def find_objects(self, bucket: str, filter_text: str, limit: int) -> list[Record]:
        """Return the first `limit` records that match an LDAP filter, in order of `_id`.

        Raises:
          MetadataError: the filter is not one, or names a field without an index.
          PeerUnreachable: no answer came.
        """


class AgentPing(Protocol):
    """A ping finds out whether the agent of a storage node answers."""

    async def ping(self, shark: str) -> frozenset[str]:
        """Return the features of the agent of `shark`, if it would do what it is asked.

        Raises:
          PeerUnreachable: no answer came.
          PeerWantsToken: the agent wants another token.
        """


class AgentThrottle(Protocol):
    """Agents can be throttled, each by the name of its storage node."""

    async def limit_bandwidth(self, shark: str, bytes_per_s: int | None) -> bool:
        """Limit an agent to so many bytes a second, None: to what it is configured to.

        Returns False if it cannot be limited.

        Raises:
          PeerError: whether the agent keeps to the limit is unknown.
        """


class AgentService(AgentPing, AgentThrottle, Protocol):
    """The agents of a region, asked by the names of their storage nodes."""

    async def post(self, shark: str, assignment: Assignment) -> PostAnswer:
        """Hand an assignment to an agent.  The same assignment may be posted again.

        Raises:
          PeerUnreachable: no answer came; the agent may have the assignment or not.
          PeerWantsToken: the agent does not have the assignment.
        """

    async def get(self, shark: str, assignment_id: str) -> AssignmentReport | None:
        """Return how an assignment stands, or None if the agent does not know it.

        Raises:
          PeerError: no answer came, or it cannot be used.
        """

    async def delete(self, shark: str, assignment_id: str) -> None:
        """Let an agent forget a completed assignment, which need not exist.

        Raises:
          PeerError: the assignment is still there.
        """
