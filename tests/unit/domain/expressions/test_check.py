"""The expressions of a whole definition: what can be named at each place, and where none can stand."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from arcentra_server.domain.definition import (
    CronTrigger,
    EventTrigger,
    GitSource,
    JobSpec,
    ManualTrigger,
    MatrixSpec,
    NotificationSpec,
    NotifySpec,
    PipelineSpec,
    SourceAuth,
    StageSpec,
    StepSpec,
    TargetSpec,
)
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.expressions.check import check_expressions, expression_warnings
from arcentra_server.domain.expressions.names import RUN_ENV
from arcentra_server.domain.instantiate import run_env
from tests.support.calls import calls_of

NO_A = (
    "there is no environment variable 'A' (known are 'ARCENTRA_BRANCH', 'ARCENTRA_COMMIT', 'ARCENTRA_NAMESPACE', 'tag')"
)
NO_PROGRAM_TEXT = (
    "`${{ }}` could become a part of a program's text, or an option, behind 'sh': "
    "use `script`, or pass it by `env` and read the variable"
)
NO_SHELL = (
    "`${{ }}` in the script of a program that is no POSIX shell would become a part of its text: pass it by `env` and "
    "read the environment variable"
)
PLAIN = "`${{ }}` is not evaluated here: write a plain text"


def step(name: str = "a", *, uses: str = "shell", **fields: Any) -> StepSpec:
    return StepSpec(name, uses, **fields)


def pipeline(*jobs: JobSpec, **fields: Any) -> PipelineSpec:
    variables = {"tag": "1"}
    return PipelineSpec((StageSpec("default", jobs),), jobs_only=True, **{"variables": variables, **fields})


def one(job: dict[str, Any], *steps: StepSpec) -> PipelineSpec:
    """Return a pipeline whose second job depends on the first and has the given fields."""
    first = JobSpec("build", (step(),), outputs={"v": "1"})
    return pipeline(first, JobSpec("deploy", steps or (step(),), depends_on=("build",), **job))


def messages(spec: PipelineSpec) -> list[tuple[str, str]]:
    """Return path and message of each fault, without where and in which expression."""
    return [(fault.path, _bare(fault.message)) for fault in check_expressions(spec)]


def _bare(message: str) -> str:
    if not message.startswith("invalid expression at"):
        return message
    return message.partition(": ")[2].rpartition(' in "')[0]


def test_a_definition_with_expressions_everywhere_is_fine() -> None:
    job = JobSpec(
        "deploy",
        (
            step(
                "one", args={"script": "echo ${{ needs.build.outputs.v }} ${{ env.A }}"}, env={"B": "${{ step.name }}"}
            ),
            step(
                "two",
                uses="http",
                when="failure() && steps.one.result == 'failed' && steps.source.result == 'success' && env.PLAIN == ''",
                args={"url": "https://${{ env.B }}/${{ steps.one.outputs.x }}", "token": "${{ secrets.TOKEN }}"},
                env={"B": "${{ steps.one.outputs.y }}", "PLAIN": ""},
                image="tool:${{ matrix.version }}",
            ),
        ),
        env={"A": "${{ variables.tag }}-${{ matrix.os }}-${{ secrets.KEY }}", "C": "${{ variables.nightly }}"},
        source=GitSource(
            "https://x/${{ variables.tag }}", "${{ branch }}", SourceAuth("${{ env.C }}", token="${{ secrets.GIT }}")
        ),
        depends_on=("build",),
        when="needs.build.outputs.v != '' && event.kind == 'push' && env.ARCENTRA_BRANCH == branch && matrix.os == 'a'",
        matrix=MatrixSpec((("os", ("a", "b")),), include=({"os": "a", "version": 3},)),
        outputs={"url": "${{ steps.two.outputs.url }}${{ steps.target.outputs.url }}"},
        target=TargetSpec("k8s", {"manifests": ["x/${{ steps.two.outputs.file }}"], "name": "${{ branch }}"}),
        notify=NotifySpec(
            NotificationSpec(
                "slack", args={"url": "${{ secrets.HOOK }}", "text": "${{ steps.target.result }} of ${{ job.name }}"}
            )
        ),
    )
    trigger = CronTrigger("@daily", variables={"nightly": "yes"})
    spec = pipeline(JobSpec("build", (step(),), outputs={"v": "1"}), job, triggers=(trigger, ManualTrigger()))
    # A variable with a secret is in the environment of `one`, whose script may not name it.
    assert messages(spec) == [
        (
            "jobs[1].steps[0].args.script",
            "'A' holds a secret, which expressions do not see: write ${{ secrets.NAME }} where you need it",
        )
    ]


@pytest.mark.parametrize(
    ("job", "steps", "path", "message"),
    [
        ({"when": "steps.a.result == 'success'"}, (), "when", "there is no step 'a' before this place (there are none)"),
        ({"when": "env.A == ''", "env": {"A": ""}}, (), "when", NO_A),
        ({"when": "step.name == ''"}, (), "when", "there is no step here; step can be used in steps"),
        ({"when": "secrets.A == ''"}, (), "when",
         "a secret can only stand alone, as ${{ secrets.NAME }}: it cannot be part of a calculation"),
        ({"when": "needs.test.result == 'failed'"}, (), "when", "the job does not depend on a job 'test' (known are 'build')"),
        ({"env": {"A": "${{ env.tag }}"}}, (), "env['A']",
         "values of env cannot use env; name what it is made of, such as variables.NAME"),
        ({"env": {"A": "${{ steps.a.result }}"}}, (), "env['A']",
         "there is no step 'a' before this place (there are none)"),
        ({"source": GitSource("${{ variables.repo }}")}, (), "source.repo",
         "there is no variable 'repo' (known are 'tag')"),
        ({"source": GitSource("x", "${{ steps.a.result }}")}, (), "source.branch",
         "there is no step 'a' before this place (there are none)"),
        ({"source": GitSource("x/${{ secrets.A }}")}, (), "source.repo", "a secret cannot be used here: use `source.auth`"),
        ({"source": GitSource("x", "${{ secrets.A }}")}, (), "source.branch",
         "a secret cannot be used here: use `source.auth`"),
        ({"source": GitSource("x", auth=SourceAuth(token="${{ secret.A }}"))}, (), "source.auth.token",
         "undeclared reference to 'secret' (did you mean 'secrets'?)"),
        ({"outputs": {"x": "${{ secrets.A }}"}}, (), "outputs['x']", "secrets cannot be used here"),
        ({"outputs": {"x": "${{ steps.b.outputs.x }}"}}, (), "outputs['x']",
         "there is no step 'b' before this place (known are 'a')"),
        ({"target": TargetSpec("k8s", {"a": [{"b": "${{ steps.target.result }}"}]})}, (), "target.config.a[0].b",
         "there is no step 'target' before this place (known are 'a')"),
        ({"target": TargetSpec("command", {"script": "${{ branch"})}, (), "target.config.script",
         "`${{` is not closed by `}}`"),
        ({"notify": NotifySpec(on_failure=NotificationSpec("mail", args={"to": ["${{ matrix.x }}"]}))}, (),
         "notify.on_failure.args.to[0]", "the job has no matrix"),
        ({"notify": NotifySpec(NotificationSpec("mail", args={"text": "${{ failure() }}"}))}, (),
         "notify.on_success.args.text", "failure() can only be used in when"),
        ({}, (step(when="steps.a.result == 'failed'"),), "steps[0].when",
         "there is no step 'a' before this place (there are none)"),
        ({}, (step(), step("b", when="steps.b.result == 'failed'")), "steps[1].when",
         "there is no step 'b' before this place (known are 'a')"),
        ({}, (step(when="env.A == ''", env={"A": "${{ branch }}"}),), "steps[0].when",
         "'A' has an expression itself, which is evaluated after `when`: name what it is made of"),
        ({}, (step(when="env.A == ''", secrets={"A": "TOKEN"}),), "steps[0].when",
         "'A' holds a secret, which expressions do not see: write ${{ secrets.NAME }} where you need it"),
        ({}, (step(env={"A": "", "B": "${{ env.A }}"}),), "steps[0].env['B']",
         "values of env cannot use env; name what it is made of, such as variables.NAME"),
        ({}, (step(image="${{ env.A }}"),), "steps[0].image", NO_A),
        ({}, (step(args={"script": "${{ nothing }}"}),), "steps[0].args.script", "undeclared reference to 'nothing'"),
        ({}, (step(uses="http", args={"a": {"${{ branch }}": 1}}),), "steps[0].args.a",
         "'${{ branch }}': `${{ }}` is not evaluated in names, only in values"),
        ({}, (step(args={"script": "x", "shell": "${{ variables.tag }}"}),), "steps[0].args.shell",
         "`${{ }}` is not evaluated here: name the shell"),
        ({}, (step(args={"script": "${{ branch }}", "shell": "python3"}),), "steps[0].args.script", NO_SHELL),
        ({}, (step(args={"command": ["sh", "-c", "${{ branch }}"]}),), "steps[0].args.command",
         NO_PROGRAM_TEXT),
    ],
)  # fmt: skip
def test_what_a_place_does_not_have_is_a_fault(
    job: dict[str, Any], steps: tuple[StepSpec, ...], path: str, message: str
) -> None:
    assert messages(one(job, *steps)) == [(f"jobs[1].{path}", message)]


def test_paths_are_those_of_the_document() -> None:
    spec = PipelineSpec(
        (StageSpec("a", (JobSpec("x", (step(),)),)), StageSpec("b", (JobSpec("y", (step(),), when="no"),)))
    )
    assert check_expressions(spec) == [
        Fault("stages[1].jobs[0].when", "invalid expression at col 1: undeclared reference to 'no' in \"no\"")
    ]


def test_jobs_of_other_stages_are_not_needed() -> None:
    first = StageSpec("a", (JobSpec("build", (step(),), outputs={"v": "1"}),))
    second = StageSpec("b", (JobSpec("deploy", (step(args={"script": "${{ needs.build.outputs.v }}"}),)),))
    assert messages(PipelineSpec((first, second))) == [
        ("stages[1].jobs[0].steps[0].args.script", "the job does not depend on a job 'build' (there are none)")
    ]


def test_where_texts_are_plain_an_expression_is_a_fault() -> None:
    matrix = MatrixSpec(
        (("os", ("a", "${{ branch }}")),), include=({"n": "${{ branch }}"},), exclude=({"os": "${{ x"},)
    )
    spec = pipeline(
        JobSpec("a", (step(),), matrix=matrix),
        variables={"x": "${{ branch }}", "y": "$ { {"},
        triggers=(
            CronTrigger("@daily", variables={"a": "${{ branch }}"}),
            ManualTrigger(),
            EventTrigger(("push",), variables={"b": "$${{ }}"}),
        ),
    )
    assert messages(spec) == [
        ("variables['x']", PLAIN),
        ("triggers[0].variables['a']", PLAIN),
        ("triggers[2].variables['b']", PLAIN),
        ("jobs[0].matrix.os[1]", PLAIN),
        ("jobs[0].matrix.include[0].n", PLAIN),
        ("jobs[0].matrix.exclude[0].os", PLAIN),
    ]


def test_all_faults_are_named_at_once() -> None:
    spec = one({"when": "a", "env": {"A": "${{ b }} ${{ c }}"}}, step(when="d", args={"script": "${{ e }}"}))
    assert [fault.path for fault in check_expressions(spec)] == [
        "jobs[1].when",
        "jobs[1].env['A']",
        "jobs[1].env['A']",
        "jobs[1].steps[0].when",
        "jobs[1].steps[0].args.script",
    ]


def test_warnings_are_about_scripts() -> None:
    target = TargetSpec("command", {"script": "echo '${{ branch }}'", "name": "${{ event.x }}"})
    spec = one(
        {"target": target},
        step(args={"script": 'echo "${{ event.title }}"'}, env={"A": "${{ event.title }}"}),
        step("b", uses="http", args={"script": "${{ event.title }}"}),
        step("c", args={"command": ["echo", "${{ event.title }}"]}),
        step("d", args={"command": "echo '${{ commit }}'"}),
    )
    assert expression_warnings(spec) == [
        Fault(
            "jobs[1].steps[0].args.script",
            "`${{ event.title }}`: people outside write that; keep it in double quotes, and away from eval and other shells",
        ),
        Fault(
            "jobs[1].steps[2].args.command",
            "`${{ event.title }}`: people outside write that; a program may take it for an option, or run it: "
            "use `script`, and keep it in double quotes",
        ),
        Fault(
            "jobs[1].steps[3].args.command",
            "`${{ commit }}` stands in single quotes, where the shell does not replace it: use double quotes",
        ),
        Fault(
            "jobs[1].target.config.script",
            "`${{ branch }}` stands in single quotes, where the shell does not replace it: use double quotes",
        ),
    ]
    assert check_expressions(spec) == []


def test_the_environment_of_a_run_is_the_one_that_runs_have() -> None:
    assert set(RUN_ENV) == set(run_env({}, "", "", ""))


def test_a_large_definition_without_expressions_costs_next_to_nothing() -> None:
    """A thousand jobs with three steps each, and two texts a step: some calls for each, however many there are."""

    def of(count: int) -> PipelineSpec:
        steps = tuple(step(f"s{place}", args={"script": "make all"}, env={"A": "b"}) for place in range(3))
        return pipeline(*(JobSpec(f"j{number}", steps) for number in range(count)))

    small, large = of(100), of(1_000)
    assert check_expressions(large) == []
    few, many = (calls_of(partial(check_expressions, spec)) for spec in (small, large))
    assert many < 11 * few
    assert many < 6_000 * 30
