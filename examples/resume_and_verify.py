"""Kill a run, resume it with the same command, verify the result.

    python examples/resume_and_verify.py

The run captions and filters 60 generated images in shards of 10, with tiny random checkpoints.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tiny_blip import save_tiny_blip

RUN = Path("runs/resumed")
CONFIG = """
run: {{dir: {run}}}
shapes: {{human: 1, web: 60, test: 1, image_size: 32}}
sources:
  web:
    kind: web
    rows: {{manifest: data/shapes/web/manifest.parquet, shard_size: 10}}
    serve: data/shapes/web     # served by the program over HTTP, so that the real fetcher runs
fetch: {{image: {{min_side: 16, resize: original}}}}
captioner: {{checkpoint: {captioner}, generate: {{sampling: {{max_new_tokens: 8}}}}}}
filter: {{checkpoint: {filter}}}
"""

CAPFILT = [sys.executable, "-m", "capfilt.pipeline"]  # the `capfilt` command
COMMAND = [*CAPFILT, "run", "resumed.yaml"]

captioner, filter_, _ = save_tiny_blip("models")
Path("resumed.yaml").write_text(CONFIG.format(run=RUN, captioner=captioner, filter=filter_))


def committed() -> int:
    """Shards of candidates that have a commit record."""
    return len(list(RUN.glob("records/rounds/1/web/*.json")))


print("first attempt")
first = subprocess.Popen(COMMAND, start_new_session=True)
while not committed() and first.poll() is None:
    time.sleep(0.05)
os.killpg(first.pid, signal.SIGKILL)  # the program and all that it started, at once
first.wait()
print(f"killed with {committed()} of 6 shards committed")

print("the same command again")
subprocess.run(COMMAND, check=True)
print(f"{committed()} of 6 shards committed")

subprocess.run([*CAPFILT, "verify", str(RUN)], check=True)
