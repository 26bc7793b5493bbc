#!/bin/sh
# Measure captioning, matching and training on a machine with one GPU, in at most nine minutes:
#
#   benchmarks/gpu.sh [OUT.json]
#
# Needs Python 3.11 or later with torch, timm, transformers, tokenizers, safetensors, Pillow, numpy, simplejpeg
# and annotated-types; neither Ray nor a network. Run it in the root of the repository.
set -eu
out=${1:-benchmarks/results/gpu.json}
python3 - <<'PYTHON'
import importlib.util, sys

names = "torch timm transformers tokenizers safetensors PIL numpy simplejpeg annotated_types".split()
missing = [name for name in names if importlib.util.find_spec(name) is None]
sys.exit(f"error: missing packages: {' '.join(missing)}" if missing else 0)
PYTHON
exec timeout 570 python3 -m benchmarks.gpu --seconds 520 --out "$out"
