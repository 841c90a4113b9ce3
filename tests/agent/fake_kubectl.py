"""A kubectl that answers as the real one does, and keeps what it was asked: the cluster is somebody else's."""

import json
from pathlib import Path

# What it answers stands in files beside it, so that a test can change it.
_SCRIPT = """#!/usr/bin/env python3
import json, os, stat, sys
from pathlib import Path

folder = Path(__file__).parent
config = os.environ.get("KUBECONFIG", "")
call = {"argv": sys.argv[1:], "kubeconfig": config and Path(config).read_text()}
if config:
    call["mode"] = oct(stat.S_IMODE(os.stat(config).st_mode))
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps(call) + "\\n")
verb = next(word for word in sys.argv[1:] if not word.startswith("-"))
answer = json.loads((folder / "answers").read_text())[verb]
sys.stdout.write(answer["text"])
sys.exit(answer["code"])
"""


class FakeKubectl:
    """The program, in a folder for PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        program = folder / "kubectl"
        program.write_text(_SCRIPT)
        program.chmod(0o755)
        self._answers = {verb: {"text": "", "code": 0} for verb in ("apply", "get", "rollout")}
        self.answer("apply", "deployment.apps/web created\n")

    def answer(self, verb: str, text: str, code: int = 0) -> None:
        self._answers[verb] = {"text": text, "code": code}
        (self.folder / "answers").write_text(json.dumps(self._answers))

    @property
    def calls(self) -> list[dict[str, object]]:
        """Arguments, KUBECONFIG's content and its mode, call by call."""
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def argvs(self) -> list[object]:
        return [call["argv"] for call in self.calls]
