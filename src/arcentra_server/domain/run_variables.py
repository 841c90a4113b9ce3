"""Which variables a call may give to a run.

Variables become environment variables of every step, so some of them would run code there, or lead it astray: what loaders,
shells, interpreters, build tools and git read. Who may only start a run must not decide what it runs. So a call gives
such a name only if the definition declares it, which says that its author expects a value from outside.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches

from arcentra_server.domain.definition import CronTrigger, EventTrigger, PipelineSpec
from arcentra_server.domain.errors import Fault

MOST_TOLD = 10
"""So many undeclared variables are named in warnings."""

_SHELLS = """
    ENV BASH_ENV PATH IFS SHELL SHELLOPTS BASHOPTS BASH_XTRACEFD PS4 PROMPT_COMMAND CDPATH GLOBIGNORE ZDOTDIR FPATH
    POSIXLY_CORRECT EDITOR VISUAL PAGER MANPAGER BROWSER LESSOPEN LESSCLOSE
"""
_PLACES_OF_SETTINGS = """
    HOME XDG_CONFIG_HOME XDG_CONFIG_DIRS XDG_DATA_HOME TMPDIR TMP TEMP INPUTRC NETRC WGETRC CURL_HOME KUBECONFIG
    DOCKER_HOST DOCKER_CONFIG HGRCPATH SVN_SSH RSYNC_RSH TAR_OPTIONS
"""
_LIBRARIES = """
    GCONV_PATH LOCPATH NLSPATH HOSTALIASES RES_OPTIONS LOCALDOMAIN GLIBC_TUNABLES GETCONF_DIR MALLOC_TRACE OPENSSL_CONF
    OPENSSL_MODULES OPENSSL_ENGINES SSL_CERT_FILE SSL_CERT_DIR SSLKEYLOGFILE CURL_CA_BUNDLE REQUESTS_CA_BUNDLE
"""
_LANGUAGES = """
    PERLLIB PERL_UNICODE PERL_MM_OPT PERL_MB_OPT JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS CLASSPATH JAVA_HOME
    MAVEN_OPTS MAVEN_ARGS GRADLE_OPTS GRADLE_USER_HOME ANT_OPTS ANT_ARGS SBT_OPTS MAKEFLAGS GNUMAKEFLAGS MFLAGS MAKEFILES
    GOFLAGS GOENV GOROOT GOPROXY GOSUMDB GONOSUMDB CC CXX LUA_INIT LUA_PATH LUA_CPATH PHPRC PHP_INI_SCAN_DIR R_PROFILE
    R_PROFILE_USER R_ENVIRON R_ENVIRON_USER RUSTFLAGS RUSTC RUSTC_WRAPPER RUSTDOC CARGO_HOME BUNDLE_GEMFILE BUNDLE_PATH
    GEM_HOME GEM_PATH DOTNET_STARTUP_HOOKS DOTNET_ADDITIONAL_DEPS
"""
_NAMES = frozenset(name for names in (_SHELLS, _PLACES_OF_SETTINGS, _LIBRARIES, _LANGUAGES) for name in names.split())
_PREFIXES = (
    *("LD_", "DYLD_", "BASH_FUNC_", "GIT_", "SSH_", "ARCENTRA_"),
    *("PYTHON", "PIP_", "UV_", "NODE_", "YARN_", "PERL5", "RUBY", "CORECLR_", "JULIA_", "ERL_"),
)
# These are read in small letters too.
_IN_ANY_CASE = re.compile(r"npm_config_.*|.*_proxy", re.IGNORECASE | re.DOTALL)
_UNFIT = (
    "programs read this variable themselves, so a call may give it only where the definition declares it: "
    "add {} to the `variables` of the pipeline"
)


def is_steering(name: str) -> bool:
    """Answer whether programs read a variable of this name in a way that makes them run, or trust, something else."""
    return name in _NAMES or name.startswith(_PREFIXES) or _IN_ANY_CASE.fullmatch(name) is not None


def declared(spec: PipelineSpec) -> frozenset[str]:
    """Return the variables that a definition names: of the pipeline, and of its triggers."""
    names = set(spec.variables)
    for trigger in spec.triggers:
        if isinstance(trigger, (CronTrigger, EventTrigger)):
            names.update(trigger.variables)
    return frozenset(names)


def check_given(given: Mapping[str, str], spec: PipelineSpec, path: str) -> list[Fault]:
    """Return the faults of variables for a run: names that steer programs, and that the definition does not declare."""
    known = declared(spec) if given else frozenset()
    return [
        Fault(f"{path}[{name!r}]", _UNFIT.format(name)) for name in given if name not in known and is_steering(name)
    ]


def undeclared_warnings(given: Mapping[str, str], spec: PipelineSpec) -> list[Fault]:
    """Return what to say of variables that the definition does not declare: perhaps the name is a mistake."""
    known = declared(spec) if given else frozenset()
    strange = sorted(name for name in given if name not in known)
    warnings = []
    for name in strange[:MOST_TOLD]:
        close = get_close_matches(name, known, n=1)
        hint = f": did you mean {close[0]}?" if close else ""
        warnings.append(Fault("", f"variable {name} is not declared by the pipeline{hint}"))
    if len(strange) > MOST_TOLD:
        warnings.append(Fault("", f"{len(strange) - MOST_TOLD} more variables are not declared by the pipeline"))
    return warnings
