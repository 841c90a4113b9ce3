"""tools/demo.sh starts, waits, follows and cleans up, whatever the programs that it runs do.

The programs are small scripts with the same command line: what is tried here is the script around them. The real ones
run in `make demo`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.tree import ROOT

pytestmark = pytest.mark.slow

SERVER = """
import os, pathlib, signal, subprocess, sys
home = pathlib.Path(os.environ["FAKE_HOME"])
home.joinpath("server.args").write_text("\\n".join(sys.argv[1:]))
mode = os.environ.get("FAKE_SERVER", "")
if mode == "breaks":
    sys.exit("cannot bind the port")
data_dir = pathlib.Path(sys.argv[sys.argv.index("--data-dir") + 1])
data_dir.mkdir()
if mode == "strays":
    stray = subprocess.Popen(["sleep", "600"], cwd=data_dir, start_new_session=True, stdout=subprocess.DEVNULL)
    home.joinpath("stray.pid").write_text(str(stray.pid))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("ready grpc=127.0.0.1:5050 http=127.0.0.1:5051", flush=True)
signal.sigwait({signal.SIGTERM})
home.joinpath("server.drained").touch()
"""

CLIENT = """
import os, pathlib, signal, sys
home = pathlib.Path(os.environ["FAKE_HOME"])
with home.joinpath("client.calls").open("a") as calls:
    print(os.environ["ARCENTRA_SERVER"], os.environ.get("ARCENTRA_TOKEN"), *sys.argv[1:], file=calls)
if sys.argv[1:3] == ["pipeline", "apply"]:
    home.joinpath("applied.yaml").write_text(pathlib.Path(sys.argv[-1]).read_text())
if sys.argv[1:3] == ["pipeline", "trigger"]:
    if os.environ.get("FAKE_CLIENT") == "hangs":
        home.joinpath("following").write_text("following")
        signal.pause()
    sys.exit(int(os.environ.get("FAKE_CODE", "0")))
"""


class Demo:
    """A tree with the script, an example and the programs, and a folder for what they leave."""

    def __init__(self, tree: Path, home: Path) -> None:
        self.tree = tree
        self.home = home
        self.scratch = home / "tmp"
        self.scratch.mkdir(parents=True)
        for name in ("tools/demo.sh", "examples/self_build.yaml"):
            tree.joinpath(name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
        for name, code in {"arcentra-server": SERVER, "arcentra": CLIENT}.items():
            program = tree / ".venv" / "bin" / name
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(f"#!{sys.executable}\n{code}", encoding="utf-8")
            program.chmod(0o755)

    def start(self, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.tree / "tools" / "demo.sh"],
            env=os.environ
            | {"TMPDIR": str(self.scratch), "FAKE_HOME": str(self.home), "ARCENTRA_TOKEN": "of-another"}
            | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, **env: str) -> tuple[int, str]:
        with self.start(**env) as process:
            output, _ = process.communicate()
            return process.returncode, output

    @property
    def drained(self) -> bool:
        return (self.home / "server.drained").exists()

    @property
    def clean(self) -> bool:
        return not list(self.scratch.iterdir())


@pytest.fixture
def demo(tree: Path, tmp_path: Path, commit: Callable[[], str]) -> Demo:
    laid = Demo(tree, tmp_path / "home")
    (tree / ".gitignore").write_text(".venv/\n", encoding="utf-8")
    commit()
    return laid


def test_a_run_is_applied_followed_and_cleaned_up(demo: Demo) -> None:
    code, output = demo.run()
    assert code == 0, output
    calls = (demo.home / "client.calls").read_text(encoding="utf-8").splitlines()
    assert [call.split()[:4] for call in calls] == [
        ["127.0.0.1:5050", "None", "pipeline", "apply"],
        ["127.0.0.1:5050", "None", "pipeline", "trigger"],
        ["127.0.0.1:5050", "None", "run", "list"],
    ]
    assert calls[1].endswith(f"self-build --var repo={demo.tree} --follow")
    applied = (demo.home / "applied.yaml").read_text(encoding="utf-8")
    assert f'repo: "{demo.tree}"' in applied
    assert 'branch: "main"' in applied
    assert "working tree has changes" not in output
    assert demo.drained
    assert demo.clean


def test_the_code_of_the_run_is_the_code_of_the_demo(demo: Demo) -> None:
    code, output = demo.run(FAKE_CODE="4")
    assert code == 4, output
    assert demo.drained
    assert demo.clean


def test_a_server_that_does_not_come_up_is_shown(demo: Demo) -> None:
    code, output = demo.run(FAKE_SERVER="breaks")
    assert code == 1
    assert "cannot bind the port" in output
    assert "the server ended before it was ready; its log is above" in output
    assert demo.clean


def test_what_the_server_leaves_running_is_ended_and_reported(demo: Demo) -> None:
    code, output = demo.run(FAKE_SERVER="strays")
    assert code == 1
    assert "still running, killed now:" in output
    assert f"{(demo.home / 'stray.pid').read_text(encoding='utf-8')} sleep 600" in output
    assert demo.clean


def test_a_signal_ends_all_of_it(demo: Demo) -> None:
    os.mkfifo(demo.home / "following")
    with demo.start(FAKE_CLIENT="hangs") as process:
        assert (demo.home / "following").read_text(encoding="utf-8") == "following"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, output
    assert demo.drained
    assert demo.clean


def test_changes_are_mentioned_and_a_detached_head_is_built(demo: Demo) -> None:
    subprocess.run(["git", "-C", demo.tree, "switch", "--quiet", "--detach"], check=True)
    (demo.tree / "new.txt").write_text("not committed", encoding="utf-8")
    code, output = demo.run()
    assert code == 0, output
    assert "the pipeline builds the commit without them" in output
    applied = (demo.home / "applied.yaml").read_text(encoding="utf-8")
    assert f'repo: "{demo.scratch}/arcentra-demo.' in applied
    assert 'branch: "demo"' in applied
    assert demo.clean


def test_a_tree_without_a_commit_is_refused(demo: Demo) -> None:
    shutil.rmtree(demo.tree / ".git")
    subprocess.run(["git", "-C", demo.tree, "init", "--quiet"], check=True)
    code, output = demo.run()
    assert code == 1
    assert "has no commit to build" in output
    assert demo.clean
