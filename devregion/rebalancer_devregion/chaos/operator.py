"""An operator creates the job of a run by the manager's API, and pauses and resumes it."""

from contextlib import suppress
from typing import Any

import attrs
import trio

from rebalancer.errors import PeerError
from rebalancer.peers.http import HttpClient
from rebalancer_devregion.processes import ProcessError

#: Seconds between two questions how the job stands.
ASK_S = 0.2
#: Words of the API for a job that is over.
ENDED = ("Complete", "Failed")


@attrs.define
class Operator:
    """An operator looks after one job, whatever happens to the manager meanwhile.

    Mutable state: the job's id, which is empty before `create`.
    """

    url: str
    http: HttpClient
    job_id: str = ""

    async def create(self, evacuated: str) -> None:
        """Create a job that evacuates a storage node.

        Raises:
          PeerError, ProcessError: the manager does not answer, or refuses.
        """
        body = {"action": "evacuate", "params": {"from_shark": evacuated}}
        self.job_id = str(await self._ask("POST", "/jobs", body)).strip()

    async def pause(self) -> None:
        """Pause the job: try until it is paused or over."""
        await self._control("pause", is_paused=True)

    async def resume(self) -> None:
        """Resume the job: try until it runs or is over."""
        await self._control("resume", is_paused=False)

    async def wait_for_end(self) -> str:
        """Return the job's last state, once it has that, and why it failed."""
        while True:
            state = await self._state()
            if state.startswith(ENDED):
                return state
            await trio.sleep(ASK_S)

    async def _control(self, action: str, *, is_paused: bool) -> None:
        while True:
            state = await self._state()
            if state.startswith(ENDED) or (state and (state == "Stopped") is is_paused):
                return
            with suppress(PeerError, ProcessError):
                await self._ask("PUT", f"/jobs/{self.job_id}", {"action": action})
            await trio.sleep(ASK_S)

    async def _state(self) -> str:
        """Return the job's state, and why it failed; empty while the manager cannot tell."""
        try:
            shown = await self._ask("GET", f"/jobs/{self.job_id}")
        except (PeerError, ProcessError):
            return ""
        why = shown.get("error")
        return str(shown["state"]) + (f": {why}" if why else "")

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        host, _, port = self.url.removeprefix("http://").partition(":")
        reply = await self.http.request(method, host, path, port=int(port), body=body, within_s=60)
        if reply.status != 200:
            raise ProcessError(f"{method} {path}: {reply.status} {reply.text[:300]}")
        return reply.json() if method == "GET" else reply.text
