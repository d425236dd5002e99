"""This module shows the check of a storage node on a page that grows while shards are scanned."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from rebalancer.manager.page.templating import render, render_around

#: What is sent where there is nothing new, to notice a browser that has gone.
_NOTHING = b"\n"


async def check_page(
    node: str, lines: AsyncGenerator[bytes, None], values: Mapping[str, Any]
) -> AsyncGenerator[bytes, None]:
    """Yield the page of a check from its `lines`, each as the API sends it."""
    head, tail = render_around("node.html", {**values, "node": node})
    yield head
    percent = -1
    async with aclosing(lines):
        async for text in lines:
            line = json.loads(text)
            if line["type"] == "result":
                yield render("node_result.html", {"line": line})  # noqa: ASYNC119 - whoever sends closes it
            elif (now := int(line["scanned"] * 100)) > percent:
                percent = now
                yield render("node_progress.html", {"line": line})  # noqa: ASYNC119 - whoever sends closes it
            else:
                yield _NOTHING  # noqa: ASYNC119 - whoever sends closes it
    yield tail
