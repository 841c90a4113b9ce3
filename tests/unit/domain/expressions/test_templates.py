"""A step, rendered when its turn comes: its environment first, values of scripts as environment variables."""

from __future__ import annotations

import json
from typing import Any

import pytest

from arcentra_server.domain.expressions import (
    ExpressionError,
    Meter,
    Rendered,
    Templates,
    holds,
    render,
    rendered,
    templates_of,
)
from arcentra_server.domain.expressions.marks import mark
from arcentra_server.domain.expressions.program import compiled
from tests.unit.domain.expressions.places import CONTEXT, context


def render_step(uses: str = "shell", *, env: dict[str, str] | None = None, image: str = "", **args: Any) -> Rendered:
    templates = templates_of(env or {}, uses, args, image)
    assert templates is not None
    stored = Templates.from_json(json.loads(json.dumps(templates.to_json())))
    assert stored == templates
    return rendered(stored, CONTEXT)


def test_a_step_without_expressions_has_no_templates() -> None:
    assert templates_of({"A": "$B"}, "shell", {"script": "echo ${A}"}, "debian:12") is None


def test_only_what_holds_an_expression_is_kept() -> None:
    templates = templates_of({"A": "plain", "B": "${{ branch }}"}, "git", {"ref": "v1"}, "debian")
    assert templates == Templates({"B": "${{ branch }}"}, None, "", ())
    assert rendered(templates, CONTEXT) == Rendered({"B": "main"}, None, None, frozenset())


def test_arguments_and_image_see_the_environment_of_the_step() -> None:
    step = render_step(
        "http",
        env={"WHO": "${{ run.triggered_by }}", "MODE": "${{ matrix.os }}"},
        image="tool:${{ env.WHO }}",
        url="https://${{ env.MODE }}.example/${{ variables.tag }}",
        retries="${{ matrix.cores }}",
        body={"files": "${{ event.files }}", "fixed": 1},
    )
    assert step == Rendered(
        env={"WHO": "ann", "MODE": "linux"},
        args={
            "url": "https://linux.example/v1.2",
            "retries": 4,
            "body": {"files": ["docs/a.md", "src/b.py"], "fixed": 1},
        },
        image="tool:ann",
        secrets=frozenset(),
    )


def test_values_of_the_environment_do_not_see_it() -> None:
    templates = templates_of({"A": "${{ env.MODE }}"}, "shell", {}, "")
    assert templates is not None
    with pytest.raises(ExpressionError, match="env has no 'MODE'"):
        rendered(templates, CONTEXT)


def test_a_script_gets_references_and_each_expression_one_variable() -> None:
    step = render_step(script='echo "${{ event.title }}" ${{ branch }}\nprintf "${{event.title}}x${{ matrix.cores }}"')
    assert step.args == {
        "script": 'echo "${ARCENTRA_EXPR_1}" ${ARCENTRA_EXPR_2}\nprintf "${ARCENTRA_EXPR_1}x${ARCENTRA_EXPR_3}"'
    }
    assert step.env == {"ARCENTRA_EXPR_1": "Fix: a thing", "ARCENTRA_EXPR_2": "main", "ARCENTRA_EXPR_3": "4"}


@pytest.mark.parametrize("uses", ["shell", "shell@v2"])
@pytest.mark.parametrize("argument", ["script", "command"])
def test_both_texts_of_the_shell_are_scripts(uses: str, argument: str) -> None:
    args: dict[str, Any] = {argument: "echo ${{ branch }}"}
    step = render_step(uses, **args)
    assert step.args == {argument: "echo ${ARCENTRA_EXPR_1}"}


def test_a_list_of_arguments_takes_values_as_they_are() -> None:
    step = render_step(command=["echo", "${{ event.title }}", "--n=${{ matrix.cores }}"])
    assert step.args == {"command": ["echo", "Fix: a thing", "--n=4"]}
    assert step.env == {}


def test_a_script_keeps_what_is_escaped() -> None:
    assert render_step(script="echo '$${{ x }}'").args == {"script": "echo '${{ x }}'"}


def test_secrets_are_marks_wherever_they_stand() -> None:
    step = render_step(
        "shell",
        env={"TOKEN": "${{ secrets.A }}", "URL": "https://u:${{ secrets.B }}@x"},
        image="${{ secrets.C }}/tool",
        script='curl -H "token: ${{ secrets.D }}"',
    )
    assert step.env == {
        "TOKEN": mark("A"),
        "URL": f"https://u:{mark('B')}@x",
        "ARCENTRA_EXPR_1": mark("D"),
    }
    assert step.args == {"script": 'curl -H "token: ${ARCENTRA_EXPR_1}"'}
    assert step.image == f"{mark('C')}/tool"
    assert step.secrets == {"A", "B", "C", "D"}
    assert render_step("http", body={"a": ["${{ secrets.E }}"]}).secrets == {"E"}


def test_an_environment_variable_with_a_secret_is_not_seen() -> None:
    with pytest.raises(ExpressionError, match=r"env has no 'TOKEN' \(it has 'MODE'\)"):
        render_step("http", env={"TOKEN": "${{ secrets.A }}"}, url="${{ env.TOKEN }}")


def test_a_variable_of_the_run_under_the_name_of_a_secret_one_is_not_seen_in_its_stead() -> None:
    templates = templates_of({"MODE": "${{ secrets.A }}"}, "http", {"url": "${{ env.MODE }}"}, "")
    assert templates is not None
    with pytest.raises(ExpressionError, match="env has no 'MODE'"):
        rendered(templates, CONTEXT)


@pytest.mark.parametrize("shell", ["python3", "pwsh -c", "node", "${{ matrix.os }}", "/usr/bin/env python3", "'"])
def test_a_script_of_another_program_takes_no_expression(shell: str) -> None:
    with pytest.raises(ExpressionError, match="pass it by `env`"):
        render_step(script="print('${{ branch }}')", shell=shell)


@pytest.mark.parametrize(
    "command",
    [
        ["sh", "-c", "echo ${{ branch }}"],
        ["/bin/bash", "-lc", "echo ${{ branch }}"],
        ["sudo", "-u", "x", "bash", "-ec", "echo ${{ branch }}"],
        ["python3.12", "-c", "print('${{ branch }}')"],
        ["node", "--eval", "${{ branch }}"],
        ["perl", "-E", "${{ branch }}"],
    ],
)
def test_the_program_text_in_a_list_takes_no_expression(command: list[str]) -> None:
    with pytest.raises(ExpressionError, match="could become a part of a program's text"):
        render_step(command=command)


def test_a_step_is_bounded_as_a_whole() -> None:
    long = context(variables={"x": "a" * 4096})
    every = "${{ variables.x.split('').all(c, c != 'b') }}"
    assert rendered(Templates({"A": every}, None, "", ()), long).env == {"A": "true"}
    together = "it takes too many steps: all expressions of a step, or all outputs of a job, may together take 100,000"
    in_env = Templates({f"V{number}": every for number in range(20)}, None, "", ())
    in_args = Templates({}, {f"v{number}": [every] for number in range(20)}, "", ())
    in_script = Templates({}, {"script": " ".join(every.replace("'b'", f"'b{n}'") for n in range(20))}, "", ("script",))
    spread = Templates({"A": every}, {"a": every}, every, ())
    for templates in (in_env, in_args, in_script, spread):
        with pytest.raises(ExpressionError, match=together):
            rendered(templates, long)


def test_a_step_is_charged_with_what_was_evaluated_before_it() -> None:
    meter = Meter()
    assert holds("branch == 'main'", CONTEXT, meter)
    spent = meter.spent
    rendered(Templates({"A": "${{ branch }}"}, None, "", ()), CONTEXT, meter)
    assert meter.spent > spent > 0


def test_once_nothing_is_left_nothing_is_compiled_any_more() -> None:
    meter = Meter()
    with pytest.raises(ExpressionError):
        render("${{ event.l.all(a, event.l == event.l) }}", context(event={"l": ["a"] * 3_000}), meter)
    before = compiled.cache_info()
    with pytest.raises(ExpressionError, match="too many steps"):
        render("${{ branch + 'never seen before' }}", CONTEXT, meter)
    assert compiled.cache_info() == before


def test_values_are_not_rendered_again() -> None:
    hostile = context(event={"title": "${{ secrets.A }} $${{ branch }}", "l": ["${{ secrets.B }}"]})
    templates = templates_of(
        {"A": "${{ event.title }}"}, "http", {"x": "${{ env.A }}", "y": "${{ event.l }}"}, "${{ event.title }}"
    )
    assert templates is not None
    step = rendered(templates, hostile)
    text = "${{ secrets.A }} $${{ branch }}"
    assert step == Rendered({"A": text}, {"x": text, "y": ["${{ secrets.B }}"]}, text, frozenset())
