"""This module fills the page's templates.  Text from outside is always escaped."""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import attrs
import jinja2
import markupsafe

from rebalancer import __version__, units

#: The part of a page that is sent again while a browser looks at it.
LIVE = "live"
#: Stands in a page for what is sent after it has begun.
GROWS_HERE = markupsafe.Markup("<!-- here -->")
#: Stands between a number and its unit, which are never parted.
_CLOSE = "\N{NO-BREAK SPACE}"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@attrs.frozen
class Static:
    """A static file is sent as it is; its tag changes with its content."""

    content: bytes
    content_type: str
    tag: str


@cache
def static_files() -> Mapping[str, Static]:
    """Read the static files, by their paths below the folder `static`.  Blocking, once."""
    found = dict[str, Static]()
    root = resources.files(__package__) / "static"
    folders = [("", root)]
    for prefix, folder in folders:
        for entry in folder.iterdir():
            name = f"{prefix}{entry.name}"
            if entry.is_dir():
                folders.append((f"{name}/", entry))
            elif kind := _TYPES.get(entry.name[entry.name.rfind(".") :]):
                content = entry.read_bytes()
                found[name] = Static(content, kind, hashlib.sha256(content).hexdigest()[:12])
    return found


def static_url(name: str) -> str:
    """Return where a static file is; the address changes with the file, so it can be kept."""
    return f"/page/static/{name}?v={static_files()[name].tag}"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _percent(share: float) -> str:
    # Rounded down: what is not done is never 100 %.
    return f"{int(share * 1000) / 10:.1f}{_CLOSE}%"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:,.1f}"


def _clock(text: str | None) -> str:
    """Show a time of the API to the second; anything else as it is."""
    if not text:
        return ""
    return f"{text[:10]} {text[11:19]}" if len(text) >= 20 and text[10] == "T" else text


def _size(count: float) -> str:
    return units.size(count).replace(" ", _CLOSE)


def _duration(seconds: float) -> str:
    return units.duration(seconds).replace(" ", _CLOSE)


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader(__package__),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_ENVIRONMENT.filters.update(
    count=_count,
    size=_size,
    rate=_rate,
    percent=_percent,
    clock=_clock,
    duration=_duration,
)
_ENVIRONMENT.globals.update(static=static_url, version=__version__)


def render(name: str, values: Mapping[str, Any]) -> bytes:
    """Return a whole page."""
    return _bytes(_ENVIRONMENT.get_template(name).render(values))


def render_around(name: str, values: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return a page before and behind the place where it grows."""
    head, _, tail = render(name, {**values, "mark": GROWS_HERE}).partition(GROWS_HERE.encode())
    return head, tail


def render_live(name: str, values: Mapping[str, Any]) -> str:
    """Return the live part of a page."""
    template = _ENVIRONMENT.get_template(name)
    text = "".join(template.blocks[LIVE](template.new_context(dict(values))))
    return _bytes(text).decode()


def _bytes(text: str) -> bytes:
    # A key may have half a character, which has no bytes.
    return text.encode(errors="backslashreplace")
