"""What an evacuation makes of records, whatever is in them."""

import json

import attrs
import pytest

from rebalancer.manager.actions.evacuate.decisions import Evacuate
from rebalancer.manager.store.records import Remaining
from tests.manager.world import NODES, ORIGIN

HERE, ELSEWHERE = attrs.asdict(ORIGIN), attrs.asdict(NODES[0].shark)


def test_an_upload_that_will_end_on_the_node_remains() -> None:
    """By any of its sharks."""
    text = json.dumps({"upload": {"id": "one", "sharks": [ELSEWHERE, HERE]}})
    found = Evacuate(ORIGIN).read_upload(2, "/account/uploads/a/1", text)
    assert found == Remaining(2, "/account/uploads/a/1", "one", "upload_in_progress")


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"upload": {"id": "one", "sharks": [ELSEWHERE]}}),
        json.dumps({"note": ORIGIN.manta_storage_id}),
        json.dumps({"upload": HERE}),
        json.dumps([HERE]),
    ],
)
def test_no_other_directory_remains(text: str) -> None:
    """It holds the name where that means nothing."""
    assert Evacuate(ORIGIN).read_upload(2, "/account/stor/a", text) is None


@pytest.mark.parametrize("text", ["no JSON", "[" * 100_000])
def test_a_directory_that_cannot_be_read_remains(text: str) -> None:
    """It holds the name, and may be an upload's: no job fails for it, and none calls it nothing."""
    found = Evacuate(ORIGIN).read_upload(2, "/account/stor/a", text)
    assert found == Remaining(2, "/account/stor/a", "", "upload_in_progress")
