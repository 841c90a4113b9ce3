"""Whatever a value is, a script prints it byte for byte, and nothing of it is run: real shells, hostile values."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arcentra_server.domain.expressions import fill_secrets, rendered, templates_of
from tests.unit.domain.expressions.places import context

SHELLS = [shell for shell in ("sh", "bash", "dash", "zsh", "ksh", "busybox") if shutil.which(shell)]

# What breaks out where a value becomes a part of the text: it leaves a file behind when something runs it.
RUN = "touch broken-out"
BREAKS = [
    f"$({RUN})", f"`{RUN}`", f"; {RUN};", f"\n{RUN}\n", f"' ; {RUN} ; '", f'" ; {RUN} ; "', f'" $({RUN}) "', f"|| {RUN}",
    f"& {RUN} &", f"\\\n{RUN}", f"}}; {RUN}; {{", f"$(({RUN}))", f"${{x:-$({RUN})}}", f"a[$({RUN})]", f"\nE\n{RUN}\n", "${{",
    "}}", "${{ branch }}", "$${{", "${{ secrets.TOKEN }}", "$HOME", "${ARCENTRA_EXPR_1}", "$1", "~", "*", "\\", "'", '"', "!!",
    "%s%n", "-n", "\r", "\t", "é😀", "\u2028", "#", "",
]  # fmt: skip
CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")
VALUES = st.lists(st.sampled_from(BREAKS) | st.text(CHARACTERS, max_size=8), max_size=6).map("".join)

# The value in each place where a shell replaces variables; what is printed is the value and an end of line.
SCRIPTS = [
    'printf "%s\\n" "${{ event.value }}"',
    "printf '%s\\n' \"${{ event.value }}\"",
    'x="${{ event.value }}"; printf "%s\\n" "$x"',
    'printf "%s\\n" "$(printf "%s\\n." "${{ event.value }}")" | sed \'$d\'',
    "cat <<E\n${{ event.value }}\nE",
    'if test -n "${{ event.value }}x"; then printf "%s\\n" "${{event.value}}"; fi',
    'show() { printf "%s\\n" "$1"; }; show "${{ event.value }}"',
    "IFS=; set -f; printf '%s\\n' ${{ event.value + '' }}",
]


@pytest.fixture(scope="module")
def empty() -> Iterator[Path]:
    with TemporaryDirectory() as directory:
        yield Path(directory)


def run(shell: str, script: str, value: str, workspace: Path) -> bytes:
    """Run a script as the agent does: its text in a file, its environment beside it."""
    templates = templates_of({}, "shell", {"script": script}, "")
    assert templates is not None
    step = rendered(templates, context(event={"value": value}))
    assert step.args is not None
    file = workspace / "script"
    file.write_text(step.args["script"], "utf-8", newline="")
    argv = [shell, "sh"] if shell == "busybox" else [shell]
    env = {"PATH": "/usr/bin:/bin", **step.env}
    ended = subprocess.run(
        [*argv, "-e", str(file)], env=env, cwd=workspace, capture_output=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    return ended.stdout


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=40, deadline=None)
@given(value=VALUES, script=st.sampled_from(SCRIPTS[:-1]))
@example(value="\n".join(BREAKS), script=SCRIPTS[0])
@example(value="".join(BREAKS), script=SCRIPTS[1])
@example(value="\n".join(BREAKS), script=SCRIPTS[2])
@example(value="\n".join(BREAKS), script=SCRIPTS[4])
@example(value="".join(reversed(BREAKS)), script=SCRIPTS[6])
def test_a_value_in_a_script_is_printed_as_it_is(shell: str, empty: Path, value: str, script: str) -> None:
    assert run(shell, script, value, empty) == f"{value}\n".encode()
    assert [file.name for file in empty.iterdir()] == ["script"]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("value", [text for text in BREAKS if text and "\r" not in text])
def test_each_way_out_is_closed_without_quotes_too(shell: str, empty: Path, value: str) -> None:
    assert run(shell, SCRIPTS[-1], value, empty) == f"{value}\n".encode()
    assert [file.name for file in empty.iterdir()] == ["script"]


def test_these_values_break_out_where_they_become_a_part_of_the_text(empty: Path) -> None:
    """The test above would see it: spliced into the script, most of them do run."""
    broken = 0
    for value in BREAKS:
        if RUN in value:
            script = SCRIPTS[0].replace("${{ event.value }}", value)
            subprocess.run(["sh", "-c", script], cwd=empty, capture_output=True, timeout=60, check=False)
            broken += (empty / "broken-out").exists()
            (empty / "broken-out").unlink(missing_ok=True)
    assert broken >= 5


@settings(max_examples=20, deadline=None)
@given(secret=VALUES)
def test_a_secret_in_a_script_is_printed_as_it_is(empty: Path, secret: str) -> None:
    templates = templates_of({}, "shell", {"script": 'printf "%s\\n" "${{ secrets.TOKEN }}"'}, "")
    assert templates is not None
    step = rendered(templates, context())
    assert step.args is not None
    assert step.secrets == {"TOKEN"}
    env = {name: fill_secrets(text, {"TOKEN": secret}) for name, text in step.env.items()}
    ended = subprocess.run(
        ["sh", "-c", step.args["script"]],
        env={"PATH": "/usr/bin:/bin", **env},
        cwd=empty,
        capture_output=True,
        check=True,
    )
    assert ended.stdout == f"{secret}\n".encode()
