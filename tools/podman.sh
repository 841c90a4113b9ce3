#!/usr/bin/env bash
# Install what the tests of steps in containers need: podman with a runtime that works without systemd, and a busybox to
# make an image of, as no registry need be reachable. Needs root and apt; where they are not, those tests are skipped.
set -euo pipefail
packages=(podman runc catatonit busybox-static)
install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2; }
install || { apt-get update -qq && install; }
