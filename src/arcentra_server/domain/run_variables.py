"""Which variables a call may give to a run.

Variables become environment variables of every step, so some of them would run code there, or lead it astray: what loaders,
shells, interpreters, build tools and git read. Who may only start a run must not decide what it runs. So a call gives
such a name only if the definition declares it, which says that its author expects a value from outside.

No list of such names is complete. So where there is something to steal, as the pipeline names secrets, who may not change
the definition gives no name at all that it does not declare.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from arcentra_server.domain.definition import CronTrigger, EventTrigger, JobSpec, PipelineSpec
from arcentra_server.domain.errors import Fault
from arcentra_server.domain.expressions import secrets_in

MOST_TOLD = 10
"""So many undeclared variables are named in warnings."""

_SHELLS = """
    ENV BASH_ENV PATH IFS SHELL SHELLOPTS BASHOPTS BASH_XTRACEFD PS4 PROMPT_COMMAND CDPATH GLOBIGNORE ZDOTDIR FPATH
    POSIXLY_CORRECT EDITOR VISUAL PAGER MANPAGER BROWSER LESSOPEN LESSCLOSE VIMINIT EXINIT
"""
_PLACES_OF_SETTINGS = """
    HOME XDG_CONFIG_HOME XDG_CONFIG_DIRS XDG_DATA_HOME TMPDIR TMP TEMP INPUTRC NETRC WGETRC CURL_HOME KUBECONFIG
    CONTAINER_HOST BUILDKIT_HOST HGRCPATH SVN_SSH TAR_OPTIONS APT_CONFIG CONFIG_SITE CONFIG_SHELL PKG_CONFIG
    PKG_CONFIG_PATH PKG_CONFIG_LIBDIR
"""
_LIBRARIES = """
    GCONV_PATH LOCPATH NLSPATH HOSTALIASES RES_OPTIONS LOCALDOMAIN GLIBC_TUNABLES GETCONF_DIR MALLOC_TRACE OPENSSL_CONF
    OPENSSL_MODULES OPENSSL_ENGINES SSL_CERT_FILE SSL_CERT_DIR SSLKEYLOGFILE CURL_CA_BUNDLE REQUESTS_CA_BUNDLE
"""
_LANGUAGES = """
    PERLLIB PERL_UNICODE PERL_MM_OPT PERL_MB_OPT JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS CLASSPATH JAVA_HOME
    MAVEN_OPTS MAVEN_ARGS GRADLE_OPTS GRADLE_USER_HOME ANT_OPTS ANT_ARGS SBT_OPTS PHPRC PHP_INI_SCAN_DIR R_PROFILE
    R_PROFILE_USER R_ENVIRON R_ENVIRON_USER RUSTFLAGS RUSTC RUSTDOC RUSTDOCFLAGS BUNDLE_GEMFILE BUNDLE_PATH GEM_HOME GEM_PATH
    DOTNET_STARTUP_HOOKS DOTNET_ADDITIONAL_DEPS
"""
# What the rules are made of that make has without being told, and what it reads itself.
_MAKE = """
    MAKE MAKEFLAGS GNUMAKEFLAGS MFLAGS MAKEFILES AR AS CC CPP CXX OBJC FC M2C PC CO GET LD LEX YACC LINT MAKEINFO TEX TEXI2DVI
    WEAVE CWEAVE TANGLE CTANGLE RM ARFLAGS ASFLAGS CFLAGS COFLAGS CPPFLAGS CXXFLAGS FFLAGS GFLAGS LDFLAGS LDLIBS LOADLIBES
    LFLAGS LINTFLAGS OBJCFLAGS PFLAGS RFLAGS YFLAGS TARGET_ARCH OUTPUT_OPTION NM RANLIB STRIP OBJCOPY OBJDUMP
"""
_NAMES = frozenset(
    name for names in (_SHELLS, _PLACES_OF_SETTINGS, _LIBRARIES, _LANGUAGES, _MAKE) for name in names.split()
)
_PREFIXES = (
    *("LD_", "DYLD_", "BASH_FUNC_", "GIT_", "SSH_", "RSYNC_", "ARCENTRA_"),
    *("PYTHON", "PYTEST_", "PIP_", "UV_", "TWINE_", "NODE_", "YARN_", "PERL5", "RUBY", "CORECLR_", "JULIA_", "ERL_"),
    *("GO", "CARGO_", "RUSTC_", "RUSTUP_", "CMAKE_", "LUA_INIT", "LUA_PATH", "LUA_CPATH", "NIX_"),
    *("ANSIBLE_", "AWS_", "DOCKER_", "HELM_", "KUBECTL_", "TF_CLI_", "VAULT_"),
)
_SUFFIXES = ("_PAGER",)
# These are read in small letters too.
_IN_ANY_CASE = re.compile(r"npm_config_.*|.*_proxy", re.IGNORECASE | re.DOTALL)
_UNFIT = (
    "programs read this variable themselves, so a call may give it only where the definition declares it: "
    "add {} to the `variables` of the pipeline"
)
_UNDECLARED = (
    "is not declared, and the pipeline names secrets, so a caller who may not change it cannot give the variable: "
    "{}add {} to the `variables` of the pipeline"
)


def is_steering(name: str) -> bool:
    """Answer whether programs are known to read a variable of this name so that they run, or trust, something else."""
    if name in _NAMES or name.startswith(_PREFIXES) or name.endswith(_SUFFIXES):
        return True
    return _IN_ANY_CASE.fullmatch(name) is not None


def declared(spec: PipelineSpec) -> frozenset[str]:
    """Return the variables that a definition names: of the pipeline, and of its triggers."""
    names = set(spec.variables)
    for trigger in spec.triggers:
        if isinstance(trigger, (CronTrigger, EventTrigger)):
            names.update(trigger.variables)
    return frozenset(names)


def check_given(given: Mapping[str, str], spec: PipelineSpec, path: str, *, may_change: bool = True) -> list[Fault]:
    """Return the faults of variables for a run: names that the definition does not declare, and would have to.

    Args:
        given: The variables.
        spec: The definition.
        path: Where they stand in the request.
        may_change: Whether who gives them may change the definition, and so do without. Who may not has to keep to what is
            declared when the pipeline names secrets; else only names that are known to steer programs are faults.
    """
    known = declared(spec) if given else frozenset()
    strange = [name for name in given if name not in known]
    if strange and not may_change and _names_secrets(spec):
        # To compare names takes long, so that only the first ones are.
        hints = [(name, _meant(name, known) if place < MOST_TOLD else "") for place, name in enumerate(strange)]
        return [Fault(f"{path}[{name!r}]", _UNDECLARED.format(hint and f"{hint} Else ", name)) for name, hint in hints]
    return [Fault(f"{path}[{name!r}]", _UNFIT.format(name)) for name in strange if is_steering(name)]


def undeclared_warnings(given: Mapping[str, str], spec: PipelineSpec) -> list[Fault]:
    """Return what to say of variables that the definition does not declare: perhaps the name is a mistake."""
    known = declared(spec) if given else frozenset()
    strange = sorted(name for name in given if name not in known)
    warnings = []
    for name in strange[:MOST_TOLD]:
        hint = _meant(name, known)
        warnings.append(Fault("", f"variable {name} is not declared by the pipeline{hint and f': {hint}'}"))
    if len(strange) > MOST_TOLD:
        warnings.append(Fault("", f"{len(strange) - MOST_TOLD} more variables are not declared by the pipeline"))
    return warnings


def _meant(name: str, known: Collection[str]) -> str:
    """Return which variable was perhaps meant, as a question, or an empty text."""
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else ""


def _names_secrets(spec: PipelineSpec) -> bool:
    """Answer whether anything of a definition names a secret."""
    return any(_job_names_secrets(job) for _, job in spec.jobs())


def _job_names_secrets(job: JobSpec) -> bool:
    texts: list[Any] = [job.env]
    if job.source is not None and job.source.auth is not None:
        auth = job.source.auth
        texts.append([auth.username, auth.password, auth.token])
    if job.target is not None:
        texts.append(job.target.config)
    if job.notify is not None:
        texts += [one.args for one in (job.notify.on_success, job.notify.on_failure) if one is not None]
    for step in job.steps:
        texts.append([step.env, step.args, step.image])
    return any(step.secrets for step in job.steps) or bool(secrets_in(texts))
