"""One stage, called by hand: the fetch stage on ten images of a folder. No Ray, no run directory, no config.

    python examples/one_stage.py

Works cell by cell in a notebook too: a stage is built from a config and called with a table of rows.
"""

# %% Ten images: eight good ones, a truncated one and one that is too small
from pathlib import Path

import duckdb
import pyarrow as pa
from PIL import Image

from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.images.decode import DecodeConfig
from capfilt.stages.rows import ROW_SCHEMA

folder = Path("ten-images")
folder.mkdir(exist_ok=True)
for number in range(10):
    Image.radial_gradient("L").resize((320 + 40 * number, 240)).save(folder / f"{number}.jpg")
(folder / "8.jpg").write_bytes((folder / "8.jpg").read_bytes()[:1000])
Image.new("RGB", (40, 40)).save(folder / "9.jpg")

# %% A batch has one row per image; "pending" rows are those the stage works on
rows = [
    {"key": f"000000{number:05d}", "source": "demo", "shard": 0, "url": f"{number}.jpg", "status": "pending"}
    for number in range(10)
]
batch = pa.Table.from_pylist(rows, schema=ROW_SCHEMA)

# %% The stage returns the same rows, with the image bytes or with a status and a reason
fetch = Fetch(
    FetchConfig(image_root=str(folder), image=DecodeConfig(min_side=64, resize="shorter", size=128))
)
result = fetch(batch)

# %% DuckDB reads the table where it is
print(duckdb.sql("SELECT url, status, original_width, width, height, error_message FROM result"))
