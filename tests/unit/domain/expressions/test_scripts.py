"""Which programs a reference works in, and where in a script the shell replaces one."""

from __future__ import annotations

import pytest

from arcentra_server.domain.expressions.scripts import arguments_warnings, script_problem, script_warnings
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
        (["sh", "-c", "--", "exit $#", "sh", "${{ branch }}"], True),
        (["bash", "-euo", "pipefail", "-c", 'echo "$1"', "${{ branch }}", "${{ commit }}"], True),
        (["bash", "-e", "deploy.sh", "-c", "${{ branch }}"], True),
        (["env", "V=${{ branch }}", "bash", "-c", "echo $V"], True),
        (["docker", "run", "-e", "V=${{ branch }}", "-v", "${{ env.D }}:/d", "-e", "W=${{ commit }}", "node:20"], True),
        (["docker", "run", "${{ variables.image }}", "npm", "test", "${{ branch }}"], True),
        (["python3", "-u", "-W", "error", "app.py", "-c", "${{ branch }}"], True),
        (["python3.12", "-m", "pytest", "-k", "${{ branch }}"], True),
        (["python3", "-c", "import sys", "${{ branch }}"], True),
        (["node", "build.js", "--eval", "${{ branch }}"], True),
        (["awk", "{print $1}", "${{ branch }}"], True),
        (["go", "build", "./cmd", "-ldflags=${{ branch }}"], True),
        (["curl", "-sS", "${{ variables.url }}"], True),
        (["${{ variables.tool }}", "test", "${{ branch }}"], True),
        (["./tool", "${{ branch }}", 5, None], True),
        # Other programs that a word looks like: each takes its arguments, and those of the last are free.
        (["sudo", "-u", "node", "bash", "-c", 'echo "$1"', "sh", "${{ branch }}"], True),
        (["docker", "run", "python", "python", "app.py", "${{ branch }}"], True),
        (["sh", "-c", 'exec "$0" "$@"', "node", "${{ branch }}"], False),
        (["docker", "run", "--entrypoint", "./tool", "alpine", "${{ branch }}"], True),
        (["./tool", "--command", "${{ branch }}", "${{ commit }}"], True),
        (["docker", "run", "node:${{ matrix.node }}", "npm", "test", "${{ branch }}"], True),
        (["python${{ matrix.python }}", "app.py", "${{ branch }}"], True),
        (["${{ matrix.folder }}/bash", "deploy.sh", "${{ branch }}"], True),
        (["env", "-u", "A", "V=${{ branch }}", "-C", "${{ env.D }}", "--", "W=1", "make", "${{ branch }}"], True),
        (["env", "V=${{ branch }}", "make", "V=${{ branch }}"], True),
        (["docker", "run", "-e", "V=${{ variables.folder }}node", "-e", "W=${{ branch }}", "image"], True),
        # `$${{` is text, and what is not closed is none.
        (["sh", "-c", "echo $${{ x }}"], True),
        (["sh", "-c", 'x="$${{ x }}"', "sh", "${{ branch }}"], True),
        (["sh", "-c", "echo $${{ x }} ${{ branch }}"], False),
        (["sh", "-c", "echo ${{ branch"], False),
        (["ssh", "host", "$${{ x }} ${{ branch"], False),
    ],
)
def test_which_arguments_are_program_text(command: object, *, fine: bool) -> None:
    assert (script_problem("command", {"command": command}) is None) is fine


def test_script_of_another_program_may_hold_what_only_looks_like_an_expression() -> None:
    assert script_problem("script", {"script": "print('$${{ x }}')", "shell": "python3"}) is None
    assert script_problem("script", {"script": "print('$${{ x }} ${{ y')", "shell": "python3"}) is not None
    assert script_problem("script", {"script": "echo ${{ branch }}", "shell": "sh -c $${{"}) is None


X = "echo ${{ event.title }}"


@pytest.mark.parametrize(
    "command",
    [
        *(
            ["bash", *options, X]
            for options in (
                ["-c"], ["-c", "--"], ["-c", "-l"], ["-c", "-x"], ["-c", "-o", "pipefail"], ["-c", "+e"], ["-ec"],
                ["-co", "pipefail"], ["-e", "-o", "pipefail", "-c"], ["-o", "pipefail", "-ec", "--"], ["--norc", "-c"],
                ["--rcfile", "x", "-c"], ["-O", "extglob", "-c"], ["-cs"], [], ["-"], ["--"], ["-s"],
            )
        ),
        *(
            [*program.split(), "-c", X]
            for program in (
                "bash5.2", "/opt/bash-5.2/bin/bash", "BASH.EXE", "C:\\Git\\bash.exe", "bash-static", "rbash", "yash", "zsh",
                "zsh --emulate sh", "ksh93", "fish", "csh", "tcsh", "nu", "su", "su ci", "su - ci", "runuser ci", "pypy3",
                "python2", "python3.13t", "python3 -I", "python3 -W x", "python3 -X dev", "env bash", "env -i A=b bash",
                "sudo -u ci sh", "nice -n 5 sh", "timeout 5 bash", "nohup sh", "xargs sh", "xargs -I {} sh", "busybox sh",
                "find . -exec sh", "docker exec web sh", "kubectl exec web -- /bin/sh", "flock /tmp/lock", "luajit",
                "./with-env.sh sh", "bash with-env.sh sh", "sh -c exec\t$@ sh", "${{matrix.shell}}", "${{matrix.shell}} -x",
                "docker exec web ${{matrix.shell}}",
            )
        ),
        ["python3", "-cprint()#${{ branch }}"],
        ["python3", "-m", "${{ branch }}"],
        ["node", "-eecho ${{ branch }}"],
        ["node", "--eval=${{ branch }}"],
        ["node20", "-pe", X],
        ["node", "-r", "./x.js", "${{ branch }}"],
        ["perl", "-e", "print 1", "${{ branch }}"],
        ["perl", "-Mstrict", "-ne", X],
        ["ruby", "${{ branch }}"],
        ["php8.2", "-r", X],
        ["lua5.4", "-e", X],
        ["Rscript", "-e", X],
        ["deno", "eval", X],
        ["pwsh", "-Command", X],
        ["pwsh", "-CommandWithArgs", X],
        ["powershell.exe", "x.ps1", "${{ branch }}"],
        ["cmd", "/c", X],
        ["awk", '{print "${{ branch }}"}'],
        ["gawk", "-v", "x=${{ branch }}", "{print x}"],
        ["sed", "s/a/b/", "${{ branch }}"],
        ["ssh", "host", X],
        ["ssh", "${{ variables.host }}", "date"],
        ["env", "-S", X],
        ["env", "-iS", "bash -c 'echo ${{ branch }}'"],
        ["env", "-u", "A", "--split-string=${{ branch }}"],
        ["watch", X],
        ["sh", "-c", "true", "sh", "-c", X],
        # What only looks like a program hides none.
        ["docker", "run", "--rm", "node", "sh", "-c", X],
        ["docker", "run", "python", "bash", "-lc", X],
        ["docker", "run", "ruby", "ruby", "-e", X],
        ["docker", "exec", "node", "sh", "-c", X],
        ["docker", "compose", "run", "php", "sh", "-c", X],
        ["sudo", "-u", "node", "bash", "-c", X],
        ["gosu", "node", "sh", "-c", X],
        ["docker", "run", "python", "ssh", "h", X],
        ["bash", "sh", "-c", X],
        ["docker", "run", "-u", "sh", "-c", "512", "node", X],
        ["docker", "run", "--entrypoint", "sh", "alpine", "-c", X],
        ["docker", "run", "--entrypoint=sh", "alpine", "-c", X],
        ["docker", "run", "--entrypoint=/usr/bin/env", "alpine", "x", X],
        ["podman", "run", "--entrypoint", '["/bin/sh", "-e"]', "alpine", "-c", X],
        ["docker", "run", "--entrypoint", "${{ matrix.shell }}", "alpine", "-c", X],
        ["docker", "run", "--entrypoint=python${{ matrix.python }}", "image", "app.py", X],
        ["flatpak", "run", "--command=sh", "app", "-c", X],
        ["flatpak", "run", "--command", "sh", "app", "-c", X],
        ["flatpak", "run", "--command=${{ matrix.folder }}/sh", "app", "-c", X],
        # Programs whose folder or version is an expression.
        ["${{ matrix.folder }}/ssh", "host", X],
        ["${{ matrix.folder }}\\ssh.exe", "host", X],
        ["sudo", "${{ a / b }}/node", "-e", X],
        ["sudo", "${{ matrix.folder }}node", "-e", X],
        ["docker", "exec", "web", "${{ matrix.prefix }}/bin/bash", "-e", "-c", X],
        ["docker", "exec", "web", "/opt/python${{ matrix.python }}/bin/node", "-e", X],
        ["uv", "run", "python${{ matrix.python }}", "-u", "-c", X],
        ["uv", "run", "python3.${{ matrix.minor }}", "-Ic", X],
        ["sudo", "perl-${{ matrix.version }}", "-e", X],
        ["ssh${{ matrix.suffix }}", "host", X],
        # `env` takes `-S` before its program.
        ["env", X, "make"],
        ["env", "A=1", X],
        ["env", "-i", X],
        ["env", "-iu", "A", "--unset", "B", "-C", "/", "A=1", X, "make"],
        ["env", "-${{ variables.options }}", "make"],
        ["env", "${{ variables.name }}=1", "make"],
        ["sudo", "/usr/bin/env", "--", X],
        ["env${{ matrix.suffix }}", X],
        ["env", "-Smake\nall", X],
        # More options than anybody writes.
        ["sh", *["-e"] * 20_000, "deploy.sh", X],
        ["env", *["A=1"] * 20_000, "make", X],
    ],
    ids=lambda command: " ".join(command)[:80],
)  # fmt: skip
def test_no_expression_gets_where_a_program_could_run_it(command: list[str]) -> None:
    problem = script_problem("command", {"command": command})
    assert problem is not None
    assert problem.endswith("use `script`, or pass it by `env` and read the variable")


def test_warnings_of_arguments_name_what_comes_from_outside() -> None:
    warning = (
        "`${{ event.title }}`, `${{ event.actor }}`: people outside write that; a program may take it for an option, "
        "or run it: use `script`, and keep it in double quotes"
    )
    assert list(arguments_warnings(["./tool", "${{ event.title }}", "x${{ event.actor }}", "${{ branch }}", 5])) == [
        warning
    ]
    assert list(arguments_warnings(["./tool", "${{ secrets.event }}", "$${{ event.x }}", "${{ event.title"])) == []
