from __future__ import annotations

import re
import sys

import pytest

from tools.check import CHECKS, Check, run_all


def check(name: str, code: str) -> Check:
    return Check(name, (sys.executable, "-c", code), f"about {name}")


def test_all_run_and_the_failed_are_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    checks = [
        check("bad", "print('line one'); raise SystemExit(3)"),
        check("good", "print('much to say')"),
        check("idle", "print('skipped: nothing to do')"),
        check("worse", "import sys; sys.stderr.write('on stderr'); raise SystemExit(1)"),
    ]
    assert run_all(checks) == 2
    printed = capsys.readouterr().out
    assert re.search(r"^FAILED  bad +\d+\.\d s  about bad\n    line one$", printed, re.MULTILINE)
    assert re.search(r"^ok      good +\d+\.\d s  about good$", printed, re.MULTILINE)
    assert re.search(r"^skipped idle .*about idle \(skipped: nothing to do\)$", printed, re.MULTILINE)
    assert "    on stderr" in printed
    assert "much to say" not in printed
    assert re.search(r"4 checks in \d+\.\d s, failed: bad, worse\n$", printed)


def test_a_missing_tool_fails_its_check_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all([Check("gone", ("no-such-tool",), "gone"), check("good", "")]) == 1
    assert "no-such-tool" in capsys.readouterr().out


def test_names_are_unique() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
