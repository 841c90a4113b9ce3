"""Variables that a call gives to a run: none that steer programs, unless the definition asks for them."""

import pytest

from arcentra_server.domain.definition import CronTrigger, EventTrigger, ManualTrigger, PipelineSpec
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
