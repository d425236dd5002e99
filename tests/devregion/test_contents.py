"""A region's contents: decided by the seed, odd enough, and as its records say."""

from pathlib import Path

from rebalancer_devregion import layout as layouts
from rebalancer_devregion.contents import EACH_ODD, Generator, md5, write
from rebalancer_devregion.expectations import EXPECTED, Kind


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    """Same seed, same records and files; another seed, others."""
    made = [list(Generator(layouts.plan(tmp_path, seed=seed)).all(50)) for seed in (1, 1, 2)]
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_every_kind_is_there(tmp_path: Path) -> None:
    """Each odd one several times, with an expectation each."""
    seeded = list(Generator(layouts.plan(tmp_path)).all(50))

    assert set(EXPECTED) == set(Kind)
    for kind in Kind:
        assert sum(one.kind is kind for one in seeded) >= EACH_ODD, kind
    assert sum(one.kind is Kind.ORDINARY for one in seeded) == 50


def test_ordinary_objects_are_as_their_records_say(tmp_path: Path) -> None:
    """Two copies in two datacenters, each whole."""
    layout = layouts.plan(tmp_path)
    for one in Generator(layout).all(50):
        if one.kind is not Kind.ORDINARY:
            continue
        record = one.record
        assert len(one.files) == len(record["sharks"]) == 2
        assert len({shark["datacenter"] for shark in record["sharks"]}) == 2
        assert {file.node for file in one.files} == {
            shark["manta_storage_id"] for shark in record["sharks"]
        }
        for file in one.files:
            assert file.path == f"{record['owner']}/{one.object_id}"
            assert len(file.content) == record["contentLength"]
            assert md5(file.content) == record["contentMD5"]


def test_a_region_is_found_again(tmp_path: Path) -> None:
    """What was saved is what is loaded; the summary counts what was written."""
    layout = layouts.plan(tmp_path / "region")
    layout.save()
    summary = write(layout, 10)

    assert layouts.load(tmp_path / "region") == layout
    files = [p for p in (tmp_path / "region" / "nodes").rglob("*") if p.is_file()]
    assert summary.files == len(files)
    assert summary.size == sum(path.stat().st_size for path in files)
