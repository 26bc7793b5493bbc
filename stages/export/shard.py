"""The stage that writes one exported shard and commits it, like every shard (docs/design.md)."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from capfilt.stages.export.config import SUFFIXES, WITH_IMAGES, ExportConfig
from capfilt.stages.export.read import count_origins, group_by_image, read_pairs
from capfilt.stages.export.tables import encode_blip, encode_images, uids_table
from capfilt.stages.export.tars import OPEN_CLIP_ENDINGS, encode_samples, most_texts
from capfilt.stages.rows import table_of
from capfilt.stages.shards.attempts import write_file
from capfilt.stages.shards.commit import commit, find_commit
from capfilt.stages.shards.pack import image_extension
from capfilt.stages.shards.records import CommitRecord, ExportRecord, RowCounts, encode
from capfilt.stages.shards.tars import read_tar_images
from capfilt.stages.shards.write import encode_parquet
from capfilt.stages.storage.layout import corpus_shard, exported_shard

EXPORTED, WITHOUT_TEXT, UNREADABLE = "exported", "without_text", "unreadable"
"""What became of an image: written, no text of it is exported, or the reader of the form passes over images
of its kind."""
EXPORT_RESULT = pa.schema([("source", pa.string()), ("shard", pa.int64()), ("record", pa.string())])
"""What the stage returns for a shard: its commit record, as JSON."""


class ExportShard:
    """Turns {"source", "shard"} into the files of an exported shard and its commit record."""

    def __init__(self, config: ExportConfig) -> None:
        self.config = config

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row (`EXPORT_RESULT`) for each item."""
        rows = []
        for item in batch.to_pylist():
            record = self.export(item["source"], item["shard"])
            rows.append({**item, "record": encode(record).decode()})
        return table_of(rows, EXPORT_RESULT)

    def export(self, source: str, shard: int) -> CommitRecord:
        """Write and commit a shard, unless it is committed.

        Returns:
            Its commit record.

        Raises:
            ValueError: an image is missing in the tar of the corpus.
        """
        config = self.config
        number = config.first_numbers[source] + shard
        place = exported_shard(number)
        if (committed := find_commit(config.out, place.record)) is not None:
            return committed
        pairs, total = read_pairs(config, source, shard)
        stored = self._read_images(source, shard, pairs)
        pairs, unreadable = self._without_unreadable(pairs, stored)
        images = group_by_image(pairs)
        data = self._encode(pairs, images, stored)
        file = write_file(config.out, place, SUFFIXES[config.form], data)
        counts = {EXPORTED: images.num_rows, UNREADABLE: unreadable}
        counts[WITHOUT_TEXT] = total - images.num_rows - unreadable
        record = ExportRecord(
            source=source,
            shard=shard,
            number=number,
            fingerprint=config.fingerprint,
            files=(file,),
            rows=RowCounts(read=total, status={name: n for name, n in counts.items() if n}),
            pairs=count_origins(pairs),
            most=most_texts(images),
        )
        return commit(config.out, place.record, record)

    def _read_images(self, source: str, shard: int, pairs: pa.Table) -> dict[str, bytes]:
        """{key: encoded image} of the images that are exported; empty for a form without images."""
        if self.config.form not in WITH_IMAGES or not pairs.num_rows:
            return {}
        tar = corpus_shard(source, shard).tar
        stored = read_tar_images(self.config.run_dir.read(tar))
        wanted = pc.unique(pairs["key"]).to_pylist()
        if missing := [key for key in wanted if key not in stored]:
            raise ValueError(
                f"{self.config.run_dir.address(tar)} has no image {missing[0]}; the shard is damaged: "
                "capfilt verify RUN --repair fixes it"
            )
        return {key: stored[key] for key in wanted}

    def _without_unreadable(self, pairs: pa.Table, stored: dict[str, bytes]) -> tuple[pa.Table, int]:
        """The pairs whose images the reader of the form reads, and the number of the other images."""
        if self.config.form != "open_clip":
            return pairs, 0
        bad = [key for key, image in stored.items() if image_extension(image) not in OPEN_CLIP_ENDINGS]
        return pairs.filter(pc.invert(pc.is_in(pairs["key"], pa.array(bad, pa.string())))), len(bad)

    def _encode(self, pairs: pa.Table, images: pa.Table, stored: dict[str, bytes]) -> bytes:
        match self.config.form:
            case "webdataset" | "open_clip":
                return encode_samples(images, stored, self.config)
            case "hf":
                return encode_images(images, stored)
            case "parquet":
                return encode_parquet(pairs)
            case "datacomp-uids":
                return encode_parquet(uids_table(self._uids(images)))
            case "blip-json":
                return encode_blip(pairs, self.config.places)

    def _uids(self, images: pa.Table) -> list[str]:
        if not images.num_rows:
            return []
        column = self.config.uid_columns[images["source"][0].as_py()]
        return images[column].to_pylist()
