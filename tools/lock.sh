#!/usr/bin/env bash
# Pin everything pyproject.toml asks for, and uv itself, with the hashes of every platform's files.
# The lock files hold no address of an index: where the files come from is the machine's business, what they are is ours.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
  .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-header --no-annotate "$@"
}
compile pyproject.toml --group dev --all-extras -o requirements-dev.lock
printf 'uv>=0.13\n' | compile - -o requirements-uv.lock
