"""Adds to setup.cfg the description for a package index: README without its relative links."""

import re
from pathlib import Path

from setuptools import setup

#: A picture or a link within the checkout, as Markdown has both.
RELATIVE = re.compile(r"!?\[([^]]*)\]\((?!https?:|#)([^)#]+)[^)]*\)")


def named(link: re.Match[str]) -> str:
    """Name the file that a link leads to: an index shows no other file of the distribution."""
    text, path = link.groups()
    return f"`{path}`" if text == path else f"{text} (`{path}`)"


readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
setup(long_description=RELATIVE.sub(named, readme))
