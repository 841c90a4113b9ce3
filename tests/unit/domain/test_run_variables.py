"""Variables that a call gives to a run: none that steer programs, unless the definition asks for them."""

import pytest

from arcentra_server.domain.definition import (
    CronTrigger,
    EventTrigger,
    GitSource,
    JobSpec,
    ManualTrigger,
    NotificationSpec,
    NotifySpec,
    PipelineSpec,
    SourceAuth,
    StageSpec,
    StepSpec,
    TargetSpec,
)
from arcentra_server.domain.run_variables import MOST_TOLD, check_given, is_steering, undeclared_warnings

SPEC = PipelineSpec(
    (),
    variables={"CHANNEL": "beta", "PATH": "/opt/bin"},
    triggers=(
        CronTrigger("@daily", variables={"PYTHONPATH": "lib"}),
        EventTrigger(("push",), variables={"GIT_SSH": "ssh"}),
        ManualTrigger(),
    ),
)
STEERING = """
    BASH_ENV ENV LD_PRELOAD LD_LIBRARY_PATH DYLD_INSERT_LIBRARIES PATH IFS SHELLOPTS BASHOPTS PS4 PROMPT_COMMAND CDPATH
    GLOBIGNORE BASH_FUNC_ls GIT_SSH_COMMAND GIT_CONFIG_COUNT SSH_AUTH_SOCK PYTHONSTARTUP NODE_OPTIONS NPM_CONFIG_PREFIX
    npm_config_registry PERL5OPT PERL5LIB PERLLIB RUBYOPT JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS MAVEN_OPTS
    GRADLE_OPTS PIP_INDEX_URL HOME SHELL EDITOR PAGER HTTP_PROXY https_proxy ALL_PROXY TMPDIR GCONV_PATH NLSPATH
    HOSTALIASES ARCENTRA_GIT_HOST XDG_CONFIG_HOME TAR_OPTIONS GOFLAGS MAKEFLAGS ZDOTDIR
    GOCACHEPROG GOTOOLCHAIN GOPATH CARGO_BUILD_RUSTC_WRAPPER CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER RUSTC_WRAPPER
    RM AR LD CPP CFLAGS LUA_INIT LUA_INIT_5_4 LUA_PATH_5_4 RSYNC_CONNECT_PROG RSYNC_RSH CONFIG_SITE CONFIG_SHELL APT_CONFIG
    VIMINIT CMAKE_C_COMPILER_LAUNCHER PYTEST_ADDOPTS ANSIBLE_CONFIG HELM_PLUGINS KUBECTL_EXTERNAL_DIFF NIX_PATH
    TF_CLI_ARGS_apply TF_CLI_CONFIG_FILE GIT_PAGER SYSTEMD_PAGER AWS_CONFIG_FILE AWS_ENDPOINT_URL_S3 TWINE_REPOSITORY_URL
    VAULT_ADDR DOCKER_CONTEXT DOCKER_HOST CONTAINER_HOST
"""


@pytest.mark.parametrize("name", STEERING.split())
def test_a_call_cannot_give_what_steers_programs(name: str) -> None:
    [fault] = check_given({"CHANNEL": "x", name: "x"}, PipelineSpec(()), "variables")
    assert fault.path == f"variables[{name!r}]"
    assert f"add {name} to the `variables` of the pipeline" in fault.message


@pytest.mark.parametrize(
    "name",
    [
        "CHANNEL",
        "env",
        "path",
        "home",
        "shell",
        "editor",
        "LANG",
        "LC_ALL",
        "DIR",
        "GITHUB_SHA",
        "BRANCH",
        "PROXY",
        "LDAP",
        "PAGERS",
        "TF_VAR_region",
        "MAKER",
    ],
)
def test_other_names_are_free(name: str) -> None:
    assert not is_steering(name)
    assert check_given({name: "x"}, PipelineSpec(()), "variables") == []


def test_what_the_definition_declares_may_be_given() -> None:
    given = {"PATH": "x", "PYTHONPATH": "x", "GIT_SSH": "x"}
    assert check_given(given, SPEC, "variables") == []
    assert undeclared_warnings(given, SPEC) == []
    assert [fault.path for fault in check_given({**given, "GIT_DIR": "x"}, SPEC, "variables")] == [
        "variables['GIT_DIR']"
    ]


SHELL = StepSpec("s", uses="shell", args={"script": "make"})
HOOK = NotifySpec(on_failure=NotificationSpec("slack", args={"url": "${{ secrets.HOOK }}"}))
NAMING = {
    "step": JobSpec("a", (SHELL, StepSpec("t", uses="shell", secrets={"T": "TOKEN"}))),
    "environment": JobSpec("a", (SHELL,), env={"A": "Bearer ${{ secrets.TOKEN }}"}),
    "environment of a step": JobSpec("a", (StepSpec("s", uses="shell", env={"A": "${{ secrets.TOKEN }}"}),)),
    "arguments": JobSpec("a", (StepSpec("s", uses="x", args={"a": [{"b": "${{ secrets.TOKEN }}"}]}),)),
    "image": JobSpec("a", (StepSpec("s", uses="shell", image="${{ secrets.IMAGE }}"),)),
    "source": JobSpec("a", (SHELL,), source=GitSource("r", auth=SourceAuth(token="${{ secrets.TOKEN }}"))),
    "target": JobSpec("a", (SHELL,), target=TargetSpec("s3", {"key": "${{ secrets.KEY }}"})),
    "notification": JobSpec("a", (SHELL,), notify=HOOK),
}


@pytest.mark.parametrize("job", NAMING.values(), ids=NAMING)
def test_who_may_not_change_a_pipeline_with_secrets_gives_only_what_it_declares(job: JobSpec) -> None:
    stages = (StageSpec("one", (JobSpec("plain", (SHELL,)),)), StageSpec("two", (job,)))
    spec = PipelineSpec(stages, variables={"CHANNEL": "beta"})
    given = {"CHANEL": "x", "CHANNEL": "x", "UNHEARD_OF": "x", "PATH": "x"}
    faults = check_given(given, spec, "variables", may_change=False)
    assert [fault.path for fault in faults] == [
        "variables['CHANEL']",
        "variables['UNHEARD_OF']",
        "variables['PATH']",
    ]
    assert faults[0].message == (
        "is not declared, and the pipeline names secrets, so a caller who may not change it cannot give the variable: "
        "did you mean CHANNEL? Else add CHANEL to the `variables` of the pipeline"
    )
    assert faults[1].message.endswith("give the variable: add UNHEARD_OF to the `variables` of the pipeline")
    assert [fault.path for fault in check_given(given, spec, "variables")] == ["variables['PATH']"]


def test_without_secrets_only_what_steers_programs_is_refused() -> None:
    plain = JobSpec("a", (StepSpec("s", uses="shell", args={"script": "echo $${{ secrets.TOKEN }}"}),))
    spec = PipelineSpec((StageSpec("one", (plain,)),))
    given = {"UNHEARD_OF": "x", "PATH": "x"}
    faults = check_given(given, spec, "variables", may_change=False)
    assert [fault.path for fault in faults] == ["variables['PATH']"]


def test_of_undeclared_variables_it_is_said_which_was_perhaps_meant() -> None:
    told = [fault.message for fault in undeclared_warnings({"CHANEL": "x", "MODE": "x", "CHANNEL": "x"}, SPEC)]
    assert told == [
        "variable CHANEL is not declared by the pipeline: did you mean CHANNEL?",
        "variable MODE is not declared by the pipeline",
    ]


def test_many_undeclared_variables_are_counted() -> None:
    warnings = undeclared_warnings({f"v{number:03}": "x" for number in range(MOST_TOLD + 5)}, SPEC)
    assert len(warnings) == MOST_TOLD + 1
    assert warnings[-1].message == "5 more variables are not declared by the pipeline"
