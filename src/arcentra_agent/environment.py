"""The environment variables of a step: a small clean base, then what the pipeline says, then what the agent knows."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from arcentra_agent.step_host.order import StepSpec

_BASE = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
_DEFAULTS = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/",
    "LANG": "C.UTF-8",
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# The kernel's limit for one variable (MAX_ARG_STRLEN), with its name and the bytes around it.
_LONGEST = 128 * 1024 - 2
# The agent's own options travel in the environment too; a step must never see them.
_OWN_PREFIX = "ARCENTRA_"


class BadEnvironmentError(ValueError):
    """A variable has a name or a value no process can have."""


def base_environment(agent_environ: Mapping[str, str], pass_env: Iterable[str] = ()) -> dict[str, str]:
    """Return what every step starts from: the base names and those that match a pattern of `pass_env`."""
    patterns = (*_BASE, *pass_env)
    passed = {
        name: value
        for name, value in agent_environ.items()
        if not name.startswith(_OWN_PREFIX) and any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    return _DEFAULTS | passed


def step_environment(base: Mapping[str, str], spec: StepSpec, workspace: Path, output: Path) -> dict[str, str]:
    """Return the whole environment of a step run; what comes later wins. `output` is the file for its outputs.

    Raises:
        BadEnvironmentError: names the variable that has a bad name, or a value that is too long or has a NUL in it.
    """
    given = {**spec.env, **spec.secrets}
    for name, value in given.items():
        if not _NAME.fullmatch(name):
            raise BadEnvironmentError(f"env: expected a name of letters, digits and _, got {name[:64]!r}")
        if "\0" in value:
            raise BadEnvironmentError(f"env: the value of {name} contains a NUL character")
        if len(name) + len(value.encode()) > _LONGEST:
            raise BadEnvironmentError(f"env: the value of {name} is longer than 128 KiB; put it into a file")
    return {**base, **given, **_facts(spec, workspace, output)}


def _facts(spec: StepSpec, workspace: Path, output: Path) -> dict[str, str]:
    return {
        "CI": "true",
        "ARCENTRA": "true",
        "ARCENTRA_STEP_RUN_ID": spec.step_run_id,
        "ARCENTRA_PIPELINE_ID": spec.pipeline_id,
        "ARCENTRA_RUN_ID": spec.pipeline_run_id,
        "ARCENTRA_JOB_NAME": spec.job_name,
        "ARCENTRA_STEP_NAME": spec.step_name,
        "ARCENTRA_WORKSPACE": str(workspace),
        "ARCENTRA_OUTPUT": str(output),
        "ARCENTRA_ATTEMPT": str(spec.attempt or 1),
    }
