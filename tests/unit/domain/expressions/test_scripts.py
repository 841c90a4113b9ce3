"""Which programs a reference works in, and where in a script the shell replaces one."""

from __future__ import annotations

import pytest

from arcentra_server.domain.expressions.scripts import script_problem, script_warnings
from arcentra_server.domain.expressions.shell_quotes import HOLE, Spot, spots

IN, OUT, HERE, SUMS = Spot.REPLACED, Spot.SINGLE_QUOTES, Spot.HERE_DOCUMENT, Spot.ARITHMETIC


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo @", [IN]),
        ('echo "@" @', [IN, IN]),
        ("echo '@' @", [OUT, IN]),
        ("echo \"it's @\" '@'", [IN, OUT]),
        ("echo '\"@\"'\"'@'\"", [OUT, IN]),
        ("echo \\'@", [IN]),
        ('echo "\\"@\\" \'@\'"', [IN, IN]),
        ("echo \\\\'@'", [OUT]),
        ("echo '\\'@'\\'", [IN]),
        ("echo $'\\'@'", [OUT]),
        ("# don't\necho @", [IN]),
        ("echo a # don't @\necho '@'", [IN, OUT]),
        ("echo a#don't @'", [OUT]),
        ("echo \"$(echo '@' \"@\") '@'\"", [OUT, IN, IN]),
        ("x=$(echo @); (echo '@')", [IN, OUT]),
        ("case @ in a) echo '@';; esac", [IN, OUT]),
        ("echo $((@ + 1)) @", [SUMS, IN]),
        ("if ((@ > 1)); then echo '@'; fi", [SUMS, OUT]),
        ("awk '{print \"@\"}' @", [OUT, IN]),
        ("cat <<EOF\nit's @\nEOF\necho @", [IN, IN]),
        ("cat <<'EOF' && echo @\nit's @\nEOF\necho '@'", [IN, HERE, OUT]),
        ('cat <<"A" <<B\n@\nA\n@\nB\n@', [HERE, IN, IN]),
        ("cat <<-\\EOF\n\t@\n\tEOF\n@", [HERE, IN]),
        ("cat <<EOF\n@\n EOF\n@", [IN, IN]),
        ("cat <<EOF\n# it's\nEOF\n# it's @", [IN]),
        ("cat <<< '@'", [OUT]),
        ("echo $((1 << 2)) '@'", [OUT]),
        ("echo '@", [OUT]),
        ("@'@'\\", [IN, OUT]),
    ],
)
def test_where_the_shell_replaces_a_variable(script: str, found: list[Spot]) -> None:
    assert spots(script.replace("@", HOLE)) == found


def test_warnings_name_the_expression_and_what_to_do() -> None:
    script = "echo '${{ branch }}' \"${{ event.title }}\" $((${{ matrix.n }} + 1))\ncat <<'E'\n${{ commit }}\nE\n"
    assert list(script_warnings(script)) == [
        "`${{ branch }}` stands in single quotes, where the shell does not replace it: use double quotes",
        "`${{ matrix.n }}` stands in (( )), where the shell runs commands that a value holds: check the value first",
        "`${{ commit }}` stands in a here-document with a quoted end, where the shell does not replace it: take off the quotes",
        "`${{ event.title }}`: people outside write that; keep it in double quotes, and away from eval and other shells",
    ]
    assert list(script_warnings('echo "${{ branch }}" $${{ event.x }} ${{ secrets.event }}')) == []
    assert list(script_warnings("echo ${{ event.title")) == []


@pytest.mark.parametrize(
    ("shell", "posix"),
    [
        ("", True),
        ("sh", True),
        ("bash -euo pipefail", True),
        ("/usr/bin/env bash", True),
        ("busybox sh", True),
        ("/bin/dash", True),
        ("busybox awk", False),
        ("busybox", False),
        ("env", True),
        ("fish", False),
        ("python3 -u", False),
        ("bash3", False),
        ("'", False),
        ("${{ variables.shell }}", False),
        (["bash"], False),
    ],
)
def test_which_interpreters_take_references(shell: object, *, posix: bool) -> None:
    problem = script_problem("script", {"script": "${{ branch }}", "shell": shell})
    assert (problem is None) is posix
    if problem is not None:
        assert problem.endswith("pass it by `env` and read the environment variable")


@pytest.mark.parametrize(
    ("command", "fine"),
    [
        ("echo ${{ branch }}", True),
        (["echo", "${{ branch }}"], True),
        (["echo", "-c", "${{ branch }}"], True),
        (["bash", "deploy.sh", "${{ branch }}"], True),
        (["sh", "-c", 'echo "$1"', "sh", "${{ branch }}"], True),
        (["sh", "-c", "${{ branch }}"], False),
        (["python", "-Bc", "${{ branch }}"], False),
    ],
)
def test_which_arguments_are_program_text(command: object, *, fine: bool) -> None:
    assert (script_problem("command", {"command": command}) is None) is fine
