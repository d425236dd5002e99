"""Looks for inputs that a target does not take, led by coverage; run by `tools/fuzz`.

Each target has a process of its own, because the engine ends it at the first finding.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
#: The longest input, in bytes.
MAX_BYTES = 4096
#: An input that takes this many seconds is a finding.
SLOW_S = 5


def fuzz(name: str, folder: str, seconds: int) -> None:
    """Run the engine on one target in this process, which does not return."""
    import atheris

    with atheris.instrument_imports(include=["rebalancer"]):
        from tests.fuzz.targets import TARGETS
    target, seeds = TARGETS[name]
    for number, seed in enumerate(seeds):
        Path(folder, f"seed{number}").write_bytes(seed)
    kept = HERE / "corpus" / name
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_BYTES}",
        f"-timeout={SLOW_S}",
        f"-dict={HERE / 'dictionary'}",
        f"-artifact_prefix={folder}-",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    corpora = [folder, *([str(kept)] if kept.is_dir() else [])]
    atheris.Setup([sys.argv[0], *options, *corpora], target)
    atheris.Fuzz()


def run(name: str, folder: Path, seconds: int) -> tuple[str, bool]:
    """Run one target in a process of its own: a row of the table, and whether it has a finding."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    code = f"from tests.fuzz.__main__ import fuzz; fuzz({name!r}, {str(folder)!r}, {seconds})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    log = done.stdout + done.stderr
    folder.with_suffix(".log").write_text(log)
    counts = [line.split()[-1] for line in log.splitlines() if "number_of_executed_units" in line]
    findings = sorted(path.name for path in folder.parent.glob(f"{folder.name}-*"))
    has_failed = bool(findings) or done.returncode != 0
    shown = ", ".join(findings) or ("see its log" if has_failed else "none")
    kept, took_s = len(list(folder.iterdir())), time.monotonic() - began
    return f"{name:24} {(counts or ['?'])[0]:>12} {kept:6} {took_s:8.0f}  {shown}", has_failed


def main() -> int:
    """Run the targets that were named, or all, one after the other; 1 if any has a finding."""
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="tools/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all unless told")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target (10)")
    parser.add_argument("--folder", type=Path, help="where inputs are kept; a new one unless told")
    given = parser.parse_args()
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"no target is called {', '.join(sorted(unknown))}")
    base = given.folder or Path(tempfile.mkdtemp(prefix="rebalancer-fuzz-"))
    print(f"{'target':24} {'inputs':>12} {'kept':>6} {'seconds':>8}  findings   (in {base})")
    has_failed = False
    for name in given.targets or TARGETS:
        row, failed = run(name, base / name, int(given.minutes * 60))
        has_failed |= failed
        print(row, flush=True)
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
