"""What is read of a subject, from files that may never answer."""

import os
from pathlib import Path

import pytest

from rebalancer.doctor import subject
from rebalancer.doctor.subject import MANAGER, Subject
from tests.doctor.test_commands import configured


def test_a_file_that_nobody_answers_for_holds_no_check_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe, or a file of a mount that hangs: named by the configuration, or that itself."""
    pipe = tmp_path / "token"
    os.mkfifo(pipe)
    monkeypatch.setattr(subject, "READ_S", 0.05)
    named = Subject.read_soon(MANAGER, configured(tmp_path, api={"token_file": str(pipe)}))
    itself = Subject.read_soon(MANAGER, pipe)
    with pipe.open("wb"):  # lets both go
        pass

    for one in (named, itself):
        assert one.config is None
        assert "was not read within 0.05 s" in one.faults[0]
    monkeypatch.undo()
    assert Subject.read_soon(MANAGER, configured(tmp_path)).faults == ()
