"""The drawing of all exceptions."""

import inspect
import pkgutil
import re
from importlib import import_module

import pytest

import rebalancer
from rebalancer import errors


def drawn() -> set[tuple[str, str, str]]:
    """The drawing in the docstring: name, base and module of each exception of this program."""
    found, bases = set(), dict[int, str]()
    for indent, name, module in re.findall(
        r"^( {4,})(\w+)(?: +([\w.]+))?$", inspect.cleandoc(errors.__doc__ or ""), re.MULTILINE
    ):
        bases[len(indent)] = name
        if name not in ("Exception", "ValueError"):
            found.add((name, bases[len(indent) - 2], module or "errors"))
    return found


def defined() -> set[tuple[str, str, str]]:
    """The exceptions that the modules of the program define."""
    found = set()
    for module in pkgutil.walk_packages(rebalancer.__path__, "rebalancer."):
        if module.name != "rebalancer.__main__":
            for name, thing in vars(import_module(module.name)).items():
                is_exception = inspect.isclass(thing) and issubclass(thing, BaseException)
                if is_exception and thing.__module__ == module.name:
                    place = module.name.removeprefix("rebalancer.")
                    found.add((name, thing.__base__.__name__, place))
    return found


@pytest.mark.native("msgspec")
@pytest.mark.native("pycurl")
def test_the_drawing_has_every_exception() -> None:
    """Each with the class that it derives from, and its module if that is another."""
    assert drawn() == defined()
    assert len(drawn()) > 30
