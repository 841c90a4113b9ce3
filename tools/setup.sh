#!/usr/bin/env bash
# Make .venv hold exactly what requirements-dev.lock says, and the package itself, editable.
# Needs Python >= 3.11. Does nothing when nothing changed. Index, certificates and caches are those of the machine:
# pip's and uv's own variables and pip's configuration file are honoured, and nothing here names an index.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
venv=$root/.venv

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# What the environment depends on. The path is part of it: scripts in a venv do not survive a move of the folder.
fingerprint() {
  { printf '%s\n' "$root"; cat tools/setup.sh requirements-uv.lock requirements-dev.lock pyproject.toml; } | sha256sum
}

find_python() {
  local name
  for name in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  die "no Python >= 3.11 found. Install one (Debian 12 and later: apt-get install python3 python3-venv), or name it: PYTHON=/path/to/python make setup"
}

# Debian ships `venv` without the pip it needs; the missing piece is a package of its own.
ensure_venv_module() {
  local python=$1 version
  "$python" -c 'import ensurepip, venv' 2>/dev/null && return
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing python$version-venv"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "python$version-venv" >&2 && return
  fi
  die "$python has no ensurepip. Install it (Debian, Ubuntu: sudo apt-get install python$version-venv) and run again"
}

# uv reads neither pip's variables nor its configuration file; hand over what matters.
adopt_pip_settings() {
  local index extra cert
  index=${PIP_INDEX_URL:-$("$venv/bin/pip" config get global.index-url 2>/dev/null || true)}
  extra=${PIP_EXTRA_INDEX_URL:-$("$venv/bin/pip" config get global.extra-index-url 2>/dev/null || true)}
  cert=${PIP_CERT:-$("$venv/bin/pip" config get global.cert 2>/dev/null || true)}
  if [ -n "$index" ] && [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX=$index; fi
  if [ -n "$extra" ] && [ -z "${UV_INDEX:-}${UV_EXTRA_INDEX_URL:-}" ]; then export UV_INDEX=$extra; fi
  if [ -n "$cert" ] && [ -z "${SSL_CERT_FILE:-}" ]; then export SSL_CERT_FILE=$cert; fi
}

wanted=$(fingerprint)
stamp=$venv/.setup-stamp
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && "$venv/bin/python" -c '' 2>/dev/null; then
  exit 0
fi

# Two `make` targets at once must not build one environment twice.
exec 9<"$root"
flock 9
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && "$venv/bin/python" -c '' 2>/dev/null; then
  exit 0
fi
rm -f "$stamp"

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  python=$(find_python)
  ensure_venv_module "$python"
  say "creating .venv with $("$python" --version) ($python)"
  "$python" -m venv --clear "$venv"
fi
# Without a home of their own (containers, service users) pip and uv would have nowhere to keep their caches.
if [ ! -w "${HOME:-/nonexistent}" ]; then export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$venv/.cache}; fi

say "installing the pinned tools and libraries"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
adopt_pip_settings
export VIRTUAL_ENV=$venv
"$venv/bin/uv" pip install --quiet --require-hashes -r requirements-dev.lock
# The build backend is pinned in the lock, so nothing outside it takes part in the build.
"$venv/bin/uv" pip install --quiet --no-deps --no-build-isolation -e .
printf '%s\n' "$wanted" >"$stamp"
say "ready: $("$venv/bin/python" --version), $root/.venv"
