"""The arguments of plugins: what they mean, and in which words they are refused."""

from pathlib import Path

import pytest

from arcentra_agent.plugins import git, shell
from arcentra_agent.plugins.arguments import ArgumentError
from arcentra_agent.plugins.base import Args
from arcentra_agent.plugins.git_access import Access

WORKSPACE = Path("/w")


@pytest.mark.parametrize(
    ("action", "args", "parsed"),
    [
        ("script", {"script": "make"}, shell.Script("make", ())),
        ("", {"script": "make"}, shell.Script("make", ())),
        ("script", {"script": "make", "shell": "bash -eo pipefail"}, shell.Script("make", ("bash", "-eo", "pipefail"))),
        ("command", {"command": "make -j2"}, shell.Command(("sh", "-c", "make -j2"))),
        ("", {"command": ["make", "-j2", ""]}, shell.Command(("make", "-j2", ""))),
    ],
)
def test_shell(action: str, args: Args, parsed: object) -> None:
    assert shell.parse(action, args) == parsed


@pytest.mark.parametrize(
    ("action", "args", "words"),
    [
        ("", {}, "exactly one of script and command"),
        ("", {"script": "a", "command": "b"}, "exactly one of script and command"),
        ("explode", {}, "shell has script and command, got 'explode'"),
        ("script", {}, r"args\.script: expected a text, got nothing"),
        ("script", {"script": "  "}, r"args\.script: expected a text, got a blank one"),
        ("script", {"script": ["a"]}, r"args\.script: expected a text, got a list"),
        ("script", {"script": "a", "shel": "sh"}, r"args\.shel: unknown argument; known are script, shell"),
        ("script", {"script": "a", "shell": "'"}, r"args\.shell: not a command line"),
        ("script", {"script": "a\0b"}, r"args\.script: contains a NUL"),
        ("command", {"command": []}, r"args\.command: expected a list of texts"),
        ("command", {"command": ["make", 2.0]}, r"args\.command: expected a list of texts"),
        ("command", {"command": "x" * 200_000}, r"args\.command: longer than 128 KiB"),
    ],
)
def test_shell_refuses(action: str, args: Args, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        shell.parse(action, args)


@pytest.mark.parametrize(
    ("action", "args", "parsed"),
    [
        ("", {"repo": "/r"}, git.Clone("/r", "", "", 0, submodules=False, path=WORKSPACE)),
        (
            "clone",
            {"repo": "r", "branch": "b", "commit": "c", "depth": 1.0, "submodules": True, "path": "src/x"},
            git.Clone("r", "b", "c", 1, submodules=True, path=WORKSPACE / "src/x"),
        ),
        ("", {"ref": "v1"}, git.Checkout("v1", WORKSPACE)),
        (
            "",
            {"repo": "https://h/r", "token": "t\n", "password": ""},
            git.Clone("https://h/r", "", "", 0, submodules=False, path=WORKSPACE, access=Access("x-access-token", "t")),
        ),
        (
            "",
            {"ref": "v1", "username": "u", "password": "p"},
            git.Checkout("v1", WORKSPACE, access=Access("u", "p")),
        ),
        (
            "",
            {"ref": "v1", "username": "u", "password": "p", "token": "t"},
            git.Checkout("v1", WORKSPACE, access=Access("u", "t")),
        ),
        (
            "",
            {"repo": "ssh://git@h/r"},
            git.Clone("ssh://git@h/r", "", "", 0, submodules=False, path=WORKSPACE),
        ),
    ],
)
def test_git(action: str, args: Args, parsed: object) -> None:
    assert git.parse(action, args, WORKSPACE) == parsed


@pytest.mark.parametrize(
    ("action", "args", "words"),
    [
        ("push", {}, "git has clone and checkout, got 'push'"),
        ("clone", {}, r"args\.repo: expected a text, got nothing"),
        ("clone", {"repo": "--upload-pack=evil"}, r"args\.repo: must not begin with '-'"),
        ("clone", {"repo": "r", "branch": "-b"}, r"args\.branch: must not begin with '-'"),
        (
            "clone",
            {"repo": "r", "depth": 1.5},
            r"args\.depth: expected a whole number of 0 or more, got the number 1.5",
        ),
        ("clone", {"repo": "r", "depth": True}, r"args\.depth: expected a whole number"),
        ("clone", {"repo": "r", "depth": float("inf")}, r"args\.depth: expected a whole number"),
        ("clone", {"repo": "r", "submodules": "yes"}, r"args\.submodules: expected true or false, got a text"),
        ("clone", {"repo": "r", "path": "../up"}, r"args\.path: expected a path inside the workspace"),
        ("clone", {"repo": "r", "path": "/etc"}, r"args\.path: expected a path inside the workspace"),
        ("clone", {"repo": "https://user@h/r"}, r"args\.repo: must hold no user name or password"),
        ("clone", {"repo": "ssh://git:pw@h/r"}, r"args\.repo: must hold no user name or password"),
        ("clone", {"repo": "https://[h/r"}, r"args\.repo: is not an address"),
        ("clone", {"repo": "r", "password": "p"}, r"args\.username: a password needs a user name"),
        ("clone", {"repo": "r", "username": "u"}, r"args\.password: a user name needs a password or a token"),
        ("clone", {"repo": "r", "token": "t\nt"}, r"args\.token: must not hold a line break"),
        ("clone", {"repo": "r", "token": ["t"]}, r"args\.token: expected a text, got a list"),
        ("checkout", {}, r"args\.ref: expected a text"),
    ],
)
def test_git_refuses(action: str, args: Args, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        git.parse(action, args, WORKSPACE)
