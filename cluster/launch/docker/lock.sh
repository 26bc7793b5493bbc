#!/usr/bin/env bash
# Writes requirements.lock: every dependency of capfilt with its version and the digests of its files.
#   cluster/launch/docker/lock.sh             # after a change of pyproject.toml; keeps versions that still fit
#   cluster/launch/docker/lock.sh --upgrade   # the newest versions that pyproject.toml allows
set -euo pipefail
cd "$(dirname "$0")/../../.."
"${UV:-uv}" pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --custom-compile-command cluster/launch/docker/lock.sh \
  --output-file cluster/launch/docker/requirements.lock "$@"
