#!/usr/bin/env bash
# Build this repository by a pipeline of its own: start server, database and one agent in a scratch folder, apply
# examples/self_build.yaml, follow its run, print the run table and exit with the run's code. Leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
bin=$root/.venv/bin
ready_within=120 # seconds; a cold database takes two
stop_within=60   # seconds

say() { printf '\n== %s\n' "$*"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

scratch=$(mktemp -d "${TMPDIR:-/tmp}/arcentra-demo.XXXXXX")
server='' client=''

# Print what still runs out of the scratch folder: its server, database, agent and steps name it or stand in it.
remaining() {
  local proc
  for proc in /proc/[0-9]*; do
    case $(tr '\0' ' ' <"$proc/cmdline" 2>/dev/null) in *"$scratch"*) echo "${proc#/proc/}"; continue ;; esac
    case $(readlink "$proc/cwd" 2>/dev/null) in "$scratch"*) echo "${proc#/proc/}" ;; esac
  done
}

alive() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }

cleanup() {
  local code=$? left deadline
  trap '' INT TERM
  set +e
  if alive "$client"; then kill "$client"; wait "$client"; fi 2>/dev/null
  if alive "$server"; then
    kill -TERM "$server"
    deadline=$((SECONDS + stop_within))
    while alive "$server" && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.1; done
    if alive "$server"; then
      printf 'demo: the server did not stop within %s s; its log ends:\n' "$stop_within" >&2
      tail -n 20 "$scratch/server.log" >&2
      kill -KILL "$server"
      code=1
    fi
    wait "$server" 2>/dev/null
  fi
  left=$(remaining)
  if [ -n "$left" ]; then
    printf 'demo: still running, killed now:\n' >&2
    for pid in $left; do printf '  %s %s\n' "$pid" "$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)" >&2; kill -KILL "$pid"; done
    [ "$code" = 0 ] && code=1
  fi
  rm -rf "$scratch"
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# In the background and waited for, so that a signal to this script is answered at once.
run_client() {
  "$bin/arcentra" "$@" &
  client=$!
  local code=0
  wait "$client" || code=$?
  client=''
  return "$code"
}

# The pipeline clones what is committed. A branch of a folder of ours is cloned in place; a detached HEAD, or a folder
# whose owner is someone else (which git refuses to clone from), by way of a bare copy.
choose_repo() {
  git config --file "$scratch/gitconfig" safe.directory '*'
  own() { GIT_CONFIG_GLOBAL=$scratch/gitconfig git -C "$root" "$@"; }
  own rev-parse --verify --quiet HEAD >/dev/null || die "$root has no commit to build"
  repo=$root
  branch=$(own branch --show-current)
  if [ -z "$branch" ] || ! git -C "$root" rev-parse HEAD >/dev/null 2>&1; then
    repo=$scratch/repo.git
    own clone --quiet --bare "$root" "$repo"
    branch=${branch:-demo}
    git -C "$repo" update-ref "refs/heads/$branch" "$(own rev-parse HEAD)"
  fi
  say "building $(own log -1 --format='%h %s')"
  if [ -n "$(own status --porcelain)" ]; then
    echo "the working tree has changes; the pipeline builds the commit without them"
  fi
}

wait_until_ready() {
  local deadline=$((SECONDS + ready_within))
  until grep -q '^ready grpc=' "$scratch/server.out" 2>/dev/null; do
    if ! alive "$server" || [ "$SECONDS" -ge "$deadline" ]; then
      cat "$scratch/server.log" "$scratch/server.out" >&2
      alive "$server" && die "the server was not ready within $ready_within s; its log is above"
      die "the server ended before it was ready; its log is above"
    fi
    sleep 0.1
  done
  address=$(sed -n 's/^ready grpc=\([^ ]*\).*/\1/p' "$scratch/server.out" | head -n 1)
}

unset "${!ARCENTRA_@}" # settings of another installation have no place here
choose_repo
say "starting server, database and agent"
# The local agent's steps install packages too: hand them the settings that this machine needs for that.
export ARCENTRA_AGENT_PASS_ENV='PIP_*,UV_*,GIT_*,PYTHON,XDG_CACHE_HOME'
"$bin/arcentra-server" dev --data-dir "$scratch/data" --grpc-listen 127.0.0.1:0 --http-listen 127.0.0.1:0 \
  >"$scratch/server.out" 2>"$scratch/server.log" &
server=$!
wait_until_ready
echo "ready at $address"

export ARCENTRA_SERVER=$address ARCENTRA_DATA_DIR=$scratch/data
sed "s|@repo@|$repo|; s|@branch@|$branch|" examples/self_build.yaml >"$scratch/self_build.yaml"
run_client pipeline apply -f "$scratch/self_build.yaml"
code=0
run_client pipeline trigger self-build --var "repo=$repo" --follow || code=$?
say "runs"
run_client run list
if [ "$code" != 0 ]; then
  say "the run failed; the server's log ends"
  tail -n 30 "$scratch/server.log"
fi
exit "$code"
