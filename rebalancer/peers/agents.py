"""This module posts assignments to agents, asks how they stand, and deletes them."""

import enum
from collections.abc import Mapping
from typing import Any

import attrs

from rebalancer.agent_protocol import (
    V2,
    Assignment,
    AssignmentReport,
    PostForm,
    assignment_body,
    read_features,
    read_report,
)
from rebalancer.errors import (
    BadRequest,
    PeerMalformed,
    PeerRefused,
    PeerUnreachable,
    PeerWantsToken,
)
from rebalancer.peers.http import Reply, Requests
from rebalancer.tokens import Token

PING_S = 5.0
POST_S = 60.0  # the agent answers after its disk has the assignment
ASK_S = 30.0
LIMIT_S = 10.0
DELETE_S = 10.0


class PostResult(enum.Enum):
    """A kind of answer that an agent gives to a posted assignment."""

    ACCEPTED = enum.auto()  # or it had it already
    BUSY = enum.auto()
    REJECTED = enum.auto()
    UNABLE = enum.auto()  # it was not posted, because the agent lacks a feature


@attrs.frozen
class PostAnswer:
    """An answer to a POST; `detail` is for the log, `retry_after_s` for BUSY."""

    result: PostResult
    detail: str = ""
    retry_after_s: float = 0.0


@attrs.frozen
class Agents:
    """This object asks the agents of a region, each on its storage node."""

    http: Requests
    port: int
    #: The token that agents want, if any.
    token: Token = attrs.field(factory=Token)
    #: How those agents are posted to that want another form than `legacy`.
    forms: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def _headers(self) -> dict[str, str]:
        token = self.token.value
        return {} if token is None else {"authorization": f"Bearer {token}"}

    async def ping(self, shark: str) -> frozenset[str]:
        """Return what the agent announces that it can do, if something answers there.

        The route costs an agent nothing, and, unlike /ping, wants the token; a deployed agent does
        not know it.

        Raises:
          PeerUnreachable, PeerWantsToken.
        """
        reply = await self._request("GET", shark, "/limits", within_s=PING_S)
        return read_features(reply.headers.get("server", ""))

    async def post(self, shark: str, assignment: Assignment) -> PostAnswer:
        """Hand `assignment` to the agent of `shark`.  May be repeated: 409 means it has it.

        One with bucket objects is not sent to an agent that takes none.  The agent is asked each
        time, because another version may have been started a moment ago.

        Raises:
          PeerUnreachable: it may have the assignment or not.
          PeerWantsToken: it does not have it.
        """
        of_buckets = any(task.bucket_id is not None for task in assignment.tasks)
        if of_buckets and not await self._takes_v2(shark):
            return PostAnswer(PostResult.UNABLE, f"the agent of {shark} takes no bucket objects")
        form = PostForm(self.forms.get(shark, PostForm.LEGACY))
        body = assignment_body(assignment, form)
        reply = await self._request("POST", shark, "/assignments", body=body, within_s=POST_S)
        detail = f"{reply.status} {reply.text[:200]}"
        match reply.status:
            case 200 | 409:
                return PostAnswer(PostResult.ACCEPTED, detail)
            case 503:
                return PostAnswer(PostResult.BUSY, detail, reply.retry_after_s(5.0))
        return PostAnswer(PostResult.REJECTED, detail)

    async def _takes_v2(self, shark: str) -> bool:
        try:
            return V2 in await self.ping(shark)
        except PeerUnreachable as exc:
            exc.was_sent = False  # the assignment was not
            raise

    async def get(self, shark: str, assignment_id: str) -> AssignmentReport | None:
        """Return how `assignment_id` stands, or None if the agent does not know it.

        Raises:
          PeerError: no answer, or not one we can use.
        """
        reply = await self._ask("GET", shark, assignment_id, ASK_S)
        if reply.status == 404:
            return None
        if reply.status != 200:
            raise PeerRefused(f"agent of {shark}: {reply.status} {reply.text[:200]}")
        try:
            return read_report(reply.json())
        except BadRequest as exc:
            raise PeerMalformed(f"agent of {shark}: {exc}") from exc

    async def delete(self, shark: str, assignment_id: str) -> None:
        """Let the agent forget a completed assignment; one it does not know is fine.

        Deployed agents answer 200, the rewrite's 204.

        Raises:
          PeerError: it is still there.
        """
        reply = await self._ask("DELETE", shark, assignment_id, DELETE_S)
        if not 200 <= reply.status < 300 and reply.status != 404:
            raise PeerRefused(f"agent of {shark}: {reply.status} {reply.text[:200]}")

    async def limit_bandwidth(self, shark: str, bytes_per_s: int | None) -> bool:
        """Have an agent take in no more than this, None for what it is configured to.

        An older agent cannot go back to that, and has no limit then.  Returns False if it never
        can be limited.

        Raises:
          PeerError: whether it keeps to it is unknown.
        """
        if bytes_per_s is None:
            path = "/limits/bandwidth_bytes_per_s"
            reply = await self._request("DELETE", shark, path, within_s=LIMIT_S)
        if bytes_per_s is not None or reply.status in (404, 405):
            body = {"bandwidth_bytes_per_s": bytes_per_s}
            reply = await self._request("PUT", shark, "/limits", body=body, within_s=LIMIT_S)
        if reply.status in (404, 405):
            return False
        if reply.status != 200:
            raise PeerRefused(f"agent of {shark}: {reply.status} {reply.text[:200]}")
        return True

    async def _ask(self, method: str, shark: str, assignment_id: str, within_s: float) -> Reply:
        return await self._request(
            method, shark, f"/assignments/{assignment_id}", within_s=within_s
        )

    async def _request(
        self, method: str, shark: str, path: str, *, within_s: float, body: Any = None
    ) -> Reply:
        """Send a request to an agent and return its answer.

        Raises:
          PeerUnreachable: none came; PeerWantsToken: it is that our token is not the right one.
        """
        reply = await self.http.request(
            method,
            shark,
            path,
            port=self.port,
            body=body,
            headers=self._headers,
            within_s=within_s,
        )
        # A deployed agent has no tokens; its 403 is of an assignment that it is not done with.
        if reply.status == 401 or (reply.status == 403 and method != "DELETE"):
            raise PeerWantsToken(f"agent of {shark}: it wants another token: {reply.status}")
        return reply
