"""Who is logged in to the page, and which requests another site's page has sent."""

import pytest

from rebalancer.manager.page.session import (
    COOKIE,
    SESSION_S,
    is_cross_site,
    is_session,
    make_session,
    session_of,
    set_cookie,
)

NOW_S = 1_000_000.0


def test_a_session_holds_for_its_time_and_its_token() -> None:
    """Whoever has shown the token is known by the cookie until then, and not after a change."""
    value = make_session("secret", NOW_S)

    assert is_session("secret", value, NOW_S + SESSION_S - 1)
    assert not is_session("secret", value, NOW_S + SESSION_S + 1)
    assert not is_session("another", value, NOW_S)


@pytest.mark.parametrize("change", [("1", "2"), (".", ""), ("", "x"), ("", "\xe9")])
def test_a_session_that_was_tampered_with_is_none(change: tuple[str, str]) -> None:
    """Neither its end nor its other parts can be changed without the token."""
    value = make_session("secret", NOW_S)
    old, new = change

    assert not is_session("secret", value.replace(old, new, 1) if old else new + value, NOW_S)


@pytest.mark.parametrize("value", ["", ".", "..", "x.y.z", "1" * 50])
def test_what_is_no_session_is_none(value: str) -> None:
    """Any text can come in a cookie."""
    assert not is_session("secret", value, NOW_S)


def test_the_cookie_is_read_among_others_and_kept_from_scripts() -> None:
    """No script sees it, no other site has it sent, and over TLS it goes no other way."""
    plain, secure = (set_cookie("v", is_secure=is_secure) for is_secure in (False, True))

    assert session_of({"cookie": f"a=b; {COOKIE}=v; c=d"}) == "v"
    assert session_of({"cookie": "=;\x00 nonsense"}) == session_of({}) == ""
    assert session_of({"cookie": f'{COOKIE}="' + "\\" * 16_000}).startswith('"')
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(plain.split("; "))
    assert secure == f"{plain}; Secure"
    assert "Max-Age=0" in set_cookie("", is_secure=False)


@pytest.mark.parametrize(
    ("headers", "is_refused"),
    [
        ({}, False),  # no browser
        ({"sec-fetch-site": "same-origin", "origin": "http://a:1", "host": "a:1"}, False),
        ({"sec-fetch-site": "none"}, False),  # typed by the user
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "same-site"}, True),
        ({"origin": "http://a:1", "host": "a:1"}, False),
        ({"origin": "https://A:1", "host": "a:1"}, False),
        ({"origin": "http://a:2", "host": "a:1"}, True),
        ({"origin": "http://b", "host": "a"}, True),
        ({"origin": "null", "host": "a"}, True),
        ({"origin": "null"}, True),
        ({"origin": "null", "host": ""}, True),
    ],
)
def test_another_sites_page_changes_nothing(headers: dict[str, str], is_refused: bool) -> None:
    """A browser tells where a form was sent from; looking is left to its own rules."""
    assert is_cross_site("POST", headers) == is_refused
    assert not is_cross_site("GET", headers)
