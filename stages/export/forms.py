"""The forms of an export and the origins of its texts, for the command line: importing this loads nothing."""

from typing import Literal

Form = Literal["webdataset", "open_clip", "hf", "parquet", "datacomp-uids", "blip-json"]
Origin = Literal["web", "synthetic"]
