"""Read a run with other libraries: candidates with `datasets`, images with `webdataset`.

    pip install datasets
    python examples/read_run.py RUN [SOURCE]

RUN is a run directory whose first round is done; SOURCE is one of its web sources (default: web).
"""

import sys
from collections import defaultdict
from glob import glob

import webdataset
from datasets import load_dataset

run, source = sys.argv[1].rstrip("/"), (sys.argv[2:] or ["web"])[0]

# One row per candidate, dropped ones too; `kept` is the verdict, null without one.
candidates = load_dataset("parquet", data_dir=f"{run}/rounds/1/{source}", split="train")
kept = candidates.filter(lambda verdict: verdict is True, input_columns="kept")
print(f"{candidates.num_rows} candidates, {kept.num_rows} kept")
texts = defaultdict(list)
for row in kept.select_columns(["key", "text"]):
    texts[row["key"]].append(row["text"])

# One sample per stored image: <key>.jpg, <key>.txt (the text that came with it), <key>.json (all columns).
tars = sorted(glob(f"{run}/images/{source}/*.tar"))
images = webdataset.WebDataset(tars, shardshuffle=False).decode("pil")
pairs = [(sample["jpg"], text) for sample in images for text in texts[sample["__key__"]]]
print(f"{len(pairs)} training pairs")
for image, text in pairs[:5]:
    print(f"{image.width} x {image.height}  {text}")
