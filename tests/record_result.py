"""Write the outcome of a full test run beside the tests: `record_result.py JUNIT.xml OUT.md`."""

import platform
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree


def outcome(case: ElementTree.Element) -> str:
    tags = {child.tag for child in case}
    return next((tag for tag in ("failure", "error", "skipped") if tag in tags), "passed")


def main(report: Path, target: Path) -> None:
    cases = list(ElementTree.parse(report).iter("testcase"))
    counts = Counter(outcome(case) for case in cases)
    seconds = sum(float(case.get("time", 0)) for case in cases)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm"))
    lines = [
        "# The last full test run",
        "",
        f"`make test-all` at commit {commit}, {datetime.now(UTC):%Y-%m-%d}, {packages}, "
        f"Python {platform.python_version()}, {platform.machine()}, {seconds / 60:.0f} minutes.",
        "",
        ", ".join(f"{number} {name}" for name, number in sorted(counts.items())) + ".",
    ]
    for case in cases:
        if outcome(case) != "passed":
            lines.append(f"- {outcome(case)}: `{case.get('classname')}::{case.get('name')}`")
            reason = next((child.get("message", "") for child in case), "")
            lines.append(f"  {reason.splitlines()[0][:200] if reason else ''}".rstrip())
    target.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
