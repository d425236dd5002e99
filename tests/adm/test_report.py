"""A report is told whole from cut off, however it arrives."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.adm.client import Access, AdmError
from rebalancer.adm.report import Tally, new_file
from rebalancer.adm.show import report


def lines(rows: int, told: Any) -> bytes:
    report = [{"type": "job"}, *({"type": "object", "key": "a\nb"} for _ in range(rows))]
    return b"".join(
        json.dumps(one).encode() + b"\n" for one in [*report, {"type": "end", "lines": told}]
    )


def tally(data: bytes, *cuts: int) -> Tally:
    seen, start = Tally(), 0
    for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        seen.add(data[start:cut])
        start = cut
    return seen


@given(st.integers(0, 20), st.lists(st.integers(0, 700)))
def test_a_whole_report_is_whole_however_it_is_cut(rows: int, cuts: list[int]) -> None:
    seen = tally(lines(rows, rows), *cuts)

    seen.check()
    assert seen.lines == rows + 2


@given(st.data(), st.lists(st.integers(0, 700)))
def test_a_report_that_breaks_off_is_not_whole(data: st.DataObject, cuts: list[int]) -> None:
    """Wherever it does, its last newline included."""
    whole = lines(5, 5)
    end = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(AdmError, match="broke off"):
        tally(whole[:end], *cuts).check()


@pytest.mark.parametrize(
    ("told", "message"),
    [(4, "has 5 lines where 4"), (6, "has 5 lines where 6"), (None, "no end"), ("5", "no end")],
)
def test_a_report_with_another_number_of_lines_is_not_whole(told: Any, message: str) -> None:
    with pytest.raises(AdmError, match=message):
        tally(lines(5, told)).check()


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    """What was there before stays if it is not; nothing else is left behind."""
    path = tmp_path / "report"
    with new_file(path) as out:
        out.write(b"one")
        assert not path.exists()
    with pytest.raises(AdmError, match="cut off"), new_file(path) as out:
        out.write(b"two")
        raise AdmError("cut off")

    assert path.read_bytes() == b"one"
    assert [found.name for found in tmp_path.iterdir()] == ["report"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(AdmError, match="nowhere/report: No such file"),
        new_file(tmp_path / "nowhere" / "report"),
    ):
        pass


def test_a_link_stays_one(tmp_path: Path) -> None:
    path, link = tmp_path / "report", tmp_path / "link"
    link.symlink_to(path)
    with new_file(link) as out:
        out.write(b"one")

    assert (path.read_bytes(), link.is_symlink()) == (b"one", True)


def test_what_is_no_file_stays_what_it_is(tmp_path: Path) -> None:
    """Root could put a file in place of /dev/null."""
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(AdmError, match="pipe: is there, and is no file"),
        new_file(tmp_path / "pipe"),
    ):
        pass

    assert (tmp_path / "pipe").is_fifo()


def test_a_closed_standard_output_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind `>&-`; nothing is asked for."""
    job_id = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(AdmError, match="standard output is closed"):
        report.main([job_id], obj=Access("http://127.0.0.1:1"), standalone_mode=False)
