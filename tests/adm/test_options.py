"""Options of the operator's command become the parameters of a job."""

import click
import pytest

from rebalancer.actions.evacuate import EVACUATE
from rebalancer.adm.options import action_options


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        ([], {}),
        (["--tier", "buckets"], {"tiers": ("buckets",)}),
        (["--tier", "buckets", "--tier", "directory"], {"tiers": ("buckets", "directory")}),
    ],
)
def test_an_option_may_be_given_for_each_value(words: list[str], sent: dict[str, object]) -> None:
    """Without it, the parameter is not sent, so that the manager has its own default."""
    command = click.Command("evacuate", params=action_options(EVACUATE))
    given = command.make_context("evacuate", ["--shark", "1.stor", *words]).params
    known = {"from_shark": "1.stor", "max_objects": None}
    assert EVACUATE.request(given)["params"] == {**known, **sent}
