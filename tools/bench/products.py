"""This module names the versions of this project that a benchmark runs beside each other.

The benchmark is always the one of its own checkout; of another version it starts the programs, in
that checkout and its environment.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import attrs
from heading import ROOT


@attrs.frozen
class Product:
    """A product is a checkout with its environment, which `tools/environment` made."""

    checkout: Path

    @property
    def rebalancer(self) -> str:
        """Return the console program of this product."""
        return str(self.checkout / ".venv" / "bin" / "rebalancer")

    def script(self, name: str) -> list[str]:
        """Return the command of one of its benchmarks, for parts that run in a process apart."""
        python = self.checkout / ".venv" / "bin" / "python"
        return [str(python), str(self.checkout / "tools" / "bench" / name)]


THIS = Product(ROOT)


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add the option by which a user chooses products."""
    parser.add_argument(
        "--product",
        action="append",
        metavar="NAME=CHECKOUT",
        help="a version to measure, that of this checkout unless told; versus gives two",
    )


def products(given: Sequence[str] | None, name: str) -> dict[str, Product]:
    """Return the products of the option by their names; without any, this one as `name`."""
    if not given:
        return {name: THIS}
    pairs = (one.partition("=") for one in given)
    return {name: Product(Path(checkout).resolve()) for name, _, checkout in pairs}
