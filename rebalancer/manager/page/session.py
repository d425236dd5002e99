"""This module tells who is logged in to the page, and where a request comes from.  Pure.

A session is a cookie that nobody can make without the API's token, and that ends when the token
changes.  Nothing of it is kept here.
"""

import hmac
import secrets
from collections.abc import Mapping

#: Seconds for which a login holds.
SESSION_S = 12 * 3600
COOKIE = "rebalancer_session"


def make_session(token: str, now_s: float) -> str:
    """Return the value of the cookie of somebody who has shown the token at `now_s`."""
    text = f"{int(now_s + SESSION_S)}.{secrets.token_hex(8)}"
    return f"{text}.{_mac(token, text)}"


def is_session(token: str, value: str, now_s: float) -> bool:
    """Tell whether the value of a cookie was made by `make_session` and still holds."""
    text, _, mac = value.rpartition(".")
    if not hmac.compare_digest(mac.encode(), _mac(token, text).encode()):
        return False
    return now_s < int(text.partition(".")[0])


def _mac(token: str, text: str) -> str:
    # Its own words first, so that it is of use for nothing else that the token may ever sign.
    return hmac.digest(token.encode(), f"session of the page: {text}".encode(), "sha256").hex()


def session_of(headers: Mapping[str, str]) -> str:
    """Return the value of the session's cookie in a request, empty if there is none."""
    # By hand: a reader of every kind of cookie takes seconds for some headers of 16 KiB.
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def set_cookie(value: str, *, is_secure: bool) -> str:
    """Return the header that has a browser keep a session; an empty value ends it."""
    age_s = SESSION_S if value else 0
    secure = "; Secure" if is_secure else ""
    return f"{COOKIE}={value}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict{secure}"


def is_cross_site(method: str, headers: Mapping[str, str]) -> bool:
    """Tell whether a request would change something on behalf of another site's page.

    A browser says where a request comes from, by one header or the other, and no script of a page
    can change that.  Other programs say nothing.
    """
    if method in ("GET", "HEAD", "OPTIONS"):
        return False
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    if (origin := headers.get("origin")) is None:
        return False
    _, _, place = origin.lower().partition("://")
    return not place or place != headers.get("host", "").lower()
