"""Space that is promised to transfers, by one process and by several."""

import os
import threading

from rebalancer.agent.transfer.disk.room import TRIES, Promised, new_file


def test_promises_of_all_processes_are_counted() -> None:
    """Each sees the sum, and a new process in a slot begins with nothing."""
    file = new_file()
    first, second = Promised.shared(file, 0), Promised.shared(file, 1)
    assert first.take(60, lambda: 100)
    assert not second.take(60, lambda: 100)
    assert second.take(40, lambda: 100)
    assert (first.total(), second.total()) == (100, 100)
    first.add(-60)
    assert second.take(60, lambda: 100)
    third = Promised.shared(file, 1)
    assert third.total() == 0
    os.close(file)


def test_what_nobody_can_tell_is_not_promised() -> None:
    """A disk that is gone leaves no promise behind."""
    promised = Promised.alone()

    def gone() -> int:
        raise OSError(5, "Input/output error")

    try:
        promised.take(5, gone)
    except OSError:
        assert promised.total() == 0
    else:
        raise AssertionError


def test_one_of_many_that_fits_is_taken() -> None:
    """However many ask at the same moment: never two, and never none."""
    file = new_file()
    for _ in range(20):
        slots = [Promised.shared(file, slot) for slot in range(8)]
        start, taken = threading.Barrier(8), list[bool]()

        def ask(one: Promised, start: threading.Barrier, taken: list[bool]) -> None:
            start.wait()
            taken.append(one.take(60, lambda: 100, TRIES * 10))

        threads = [threading.Thread(target=ask, args=(one, start, taken)) for one in slots]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(taken) == 1
    os.close(file)
