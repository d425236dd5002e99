"""The manager's refusals name what an operator has typed."""

import pytest

from rebalancer.actions import DECLARED
from rebalancer.adm.client import AdmError
from rebalancer.adm.wording import LIMITS, in_words_of, options_of, worded

EVACUATE, VERIFY = (options_of(DECLARED[name]) for name in ("evacuate", "verify"))


@pytest.mark.parametrize(
    ("text", "names", "worded_so"),
    [
        (
            "params.objects_file: expected the absolute path of a file (status 422)",
            EVACUATE,
            "--objects-file: expected the absolute path of a file (status 422)",
        ),
        (
            "params: expected either job or shark (status 422)",
            VERIFY,
            "expected either --job or --shark (status 422)",
        ),
        ("params.from_shark: 'x y' is no name", EVACUATE, "--shark: 'x y' is no name"),
        ("Cannot set bandwidth_bytes_per_s below 1", LIMITS, "Cannot set bandwidth below 1"),
        ("Job 0fd6 is for this shark already", VERIFY, "Job 0fd6 is for this shark already"),
        ("/a/max_sharks: No such file", LIMITS, "/a/max_sharks: No such file"),
    ],
)
def test_fields_are_called_by_their_options(
    text: str, names: dict[str, str], worded_so: str
) -> None:
    """Only where the text is about a field: a job or a shark may be one that is meant."""
    assert in_words_of(text, names) == worded_so


def test_the_status_and_the_exit_code_stay() -> None:
    with pytest.raises(AdmError, match="^--max-objects: no$") as caught, worded(EVACUATE):
        raise AdmError("params.max_objects: no", 422, 7)
    assert (caught.value.status, caught.value.exit_code) == (422, 7)
