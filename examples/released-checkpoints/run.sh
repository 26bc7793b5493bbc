#!/usr/bin/env bash
# Bootstrap a url list with BLIP's released checkpoints:
#
#   hf download Salesforce/blip-image-captioning-base --local-dir checkpoints/blip-image-captioning-base
#   hf download Salesforce/blip-itm-base-coco --local-dir checkpoints/blip-itm-base-coco
#   examples/released-checkpoints/run.sh runs/released --set fetch.contact=you@example.org
#
# The first argument is the run directory, the others go to capfilt. Started again after any interruption, the script
# continues where it stopped.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
run=$1
shift

capfilt check "$here/config.yaml" --set run.dir="$run" "$@"
capfilt run "$here/config.yaml" --set run.dir="$run" "$@"
capfilt retry "$run" --class dns,timeout,connect   # one more attempt for failures that may be temporary
capfilt run "$run/config.yaml" --set run.dir="$run"   # caption and filter what the retry has added
capfilt verify "$run"
python "$here/../noise_by_host.py" "$run"
