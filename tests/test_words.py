"""Docstrings begin with sentences that can be read without their neighbours."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: Where the rules hold.
ROOMS = ["rebalancer", "devregion/rebalancer_devregion"]
#: Where they do not hold yet: the API's bodies, its users, and the actions.
NOT_YET: tuple[str, ...] = ()

#: Words with which no first line begins: they point at something that was said elsewhere, or they
#: withhold the subject.  "This" is allowed where the noun follows: "This module reads ...".
POINTING = re.compile(
    r"(It|Its|They|Them|Their|Those|These|That|One|What|Who|Whose|Whom|Which|Where|When|Whether|How"
    r"|As|So|Some|Any|None|Nothing|Whatever|Whoever|Also|And|But|If|For|Of|In|At|To|By|With|Without"
    r"|Before|After|Only|Else|Not|Such|Here|There|True|False|The reverse|The same"
    r"|This (is|has|was|are|tells|counts|means|can|cannot|will))\b"
)
#: Verbs that a function's first line may begin with.  A new one is added here.
VERBS = frozenset(
    """
    Abandon Accept Add Adopt Allow Announce Answer Append Apply Ask Attach Audit Await Back
    Be Begin Bind Bound Break Bring Build Call Cancel Carry Change Check Choose Claim Clear
    Clone Close Collect Commit Compare Complete Configure Connect Convert Cool Copy Count
    Cover Crash Create Cut Damage Decide Declare Decode Defer Delete Describe Detect Discard
    Dispatch Divide Do Draw Drive Drop Emit Empty Encode End Ensure Enter Escape Estimate
    Evacuate Evict Exclude Export Extract Fail Feed Fetch Fill Find Finish Fit Fold Follow
    Forget Fork Format Free Freeze Gather Get Give Go Grant Group Guard Halt Hand Handle
    Hash Have Hold Ignore Import Include Infer Insert Inspect Install Interpret Invoke Iterate Join
    Judge Keep Kill Launch Lay Leave Lend Let Limit List Listen Load Lock Log Look Lower
    Make Manage Map Mark Match Measure Meet Mend Merge Migrate Mount Move Name Note Number
    Open Order Overwrite Own Pad Parse Pass Patch Pause Pick Pin Place Plan Poll Pop Post
    Prepare Print Probe Promise Prove Prune Pull Push Put Queue Quote Raise Rank Rate Read
    Rebuild Receive Record Recover Redirect Refresh Refuse Register Reject Relay Release
    Reload Remember Remove Rename Render Repeat Replace Report Request Requeue Require
    Rescan Reserve Reset Resolve Respond Restore Resume Retry Return Reuse Revert Revoke
    Rewrite Roll Rotate Round Route Run Sample Save Say Scan Schedule Seal Search See Seed
    Select Send Serve Set Settle Share Shift Shorten Show Shut Sign Silence Simulate Skip
    Sleep Slice Snapshot Sort Spell Split Spread Stamp Stand Start Stay Step Stop Store
    Stream Strip Structure Submit Subtract Sum Summarise Suspend Sweep Switch Sync Tag Take
    Tear Tell Test Throttle Time Track Translate Trim Truncate Trust Try Turn Undo Unlock
    Unmount Unpack Untangle Unwrap Update Upgrade Upload Use Validate Verify Visit Wait Wake
    Walk Warn Watch Wind Wire Withdraw Work Wrap Write Yield
    """.split()  # noqa: SIM905
)
#: First lines of functions that begin otherwise, each for its reason.
ALLOWED = frozenset({"GET", "PUT", "POST", "DELETE"})  # a route is called what is asked


def first_lines(text: str) -> Iterator[tuple[str, bool, str]]:
    """The name, whether it is a function, and the first line of each docstring of a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            is_function = not isinstance(node, ast.Module | ast.ClassDef)
            if docstring := ast.get_docstring(node):
                name = getattr(node, "name", "the module")
                yield name, is_function, docstring.partition("\n")[0]


def faults(text: str) -> list[str]:
    """What is wrong with the first lines of a module's docstrings."""
    found = []
    for name, is_function, line in first_lines(text):
        word = line.split()[0].rstrip(",.;:")
        if POINTING.match(line):
            found.append(f"{name}: begins with a word that points elsewhere: {line}")
        elif not line.endswith("."):
            found.append(f"{name}: does not end as a sentence: {line}")
        elif is_function and word not in VERBS | ALLOWED:
            found.append(f"{name}: does not begin with a verb: {line}")
    return found


def modules() -> list[Path]:
    """All modules of the rooms."""
    files = (file for room in ROOMS for file in (ROOT / room).rglob("*.py"))
    return sorted(file for file in files if not str(file.relative_to(ROOT)).startswith(NOT_YET))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_first_lines_can_be_read_alone(path: Path) -> None:
    """Each docstring, of private things too, begins with a sentence of its own."""
    assert faults(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "It is gone.",
        "The reverse.",
        "Those of `unsettled` that are taken up.",
        "One whose disk is gone is done at once.",
        "What an operator has changed.",
        "This tells how it ended.",
        "Whether a shard is there.",
        "The clones of all shards.",
        "Return the clones of all shards",
    ],
)
def test_a_first_line_that_cannot_is_found(line: str) -> None:
    """The test above can fail, by each rule."""
    assert len(faults(f'def f():\n    """{line}"""\n')) == 1


def test_a_module_may_say_what_it_does() -> None:
    """With a noun and a verb."""
    assert faults('"""This module reads files."""\nclass A:\n    """A pool of files."""\n') == []
