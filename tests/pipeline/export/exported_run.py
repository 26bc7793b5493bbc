"""A bootstrapped run made by hand: two web sources, one human source, images in several formats, columns that
the user's rows have brought. `kept_pairs` is what an export must hold, by DuckDB over its Parquet files."""

import io

import duckdb
import pyarrow as pa
from PIL import Image

from capfilt.pipeline.config.load import dump_config, parse_config
from capfilt.pipeline.export.export import run_export
from capfilt.pipeline.export.here import export_here
from capfilt.pipeline.export.plan import ExportRequest
from capfilt.pipeline.node import NodeResult
from capfilt.pipeline.prepare import open_run
from capfilt.stages.rows import CANDIDATE_SCHEMA, CORPUS_SCHEMA, ROW_SCHEMA, row_key, table_of
from capfilt.stages.shards.commit import count_verdicts, make_corpus_record
from capfilt.stages.shards.pack import Pack, encode_tar
from capfilt.stages.shards.records import CandidatesRecord, RowCounts, encode
from capfilt.stages.shards.write import IMAGE_COLUMNS, encode_parquet
from capfilt.stages.storage.layout import candidates_shard, corpus_shard
from capfilt.stages.storage.store import sha256
from tests.tiny import tiny_data

SHARDS = {"web": 3, "more": 1, "human": 1}
ROWS = 7
CARRIED = pa.schema([("uid", pa.string()), ("similarity", pa.float64()), ("LICENSE", pa.string())])
FORMATS = ("JPEG", "PNG", "WEBP", "JPEG", "GIF")


def make_run(folder, url=None, options=None, **sections):
    """A run directory in `folder`, or at `url`; returns it opened for reading.

    Args:
        sections: of the config.
    """
    data = tiny_data(folder) | sections
    data["sources"].setdefault("more", {**data["sources"]["web"], "rows": {"manifest": "more.csv"}})
    data["run"] |= {"dir": url or str(folder / "run"), "storage_options": options or {}}
    run_dir = open_run(parse_config(data, "exported"))
    run_dir.ledger.save_config(dump_config(run_dir.config))
    for source, shards in SHARDS.items():
        for shard in range(shards):
            write_corpus(run_dir.store, source, shard)
            if source != "human":
                write_candidates(run_dir.store, source, shard)
    for node in ("fetch", "bootstrap.1"):
        run_dir.ledger.finish(node, {"made": "by hand"}, NodeResult("", counts={}), 1.0)
    return run_dir


def image_of(source, shard, row):
    """The bytes of a small picture, different for every image."""
    sink = io.BytesIO()
    color = (20 * row, 60 * shard, 80 * len(source) % 256)
    Image.new("RGB", (40, 30), color).save(sink, FORMATS[(row + shard) % len(FORMATS)])
    return sink.getvalue()


def corpus_rows(source, shard):
    rows = []
    for number in range(ROWS):
        is_stored = number != 5
        image = image_of(source, shard, number)
        texts = {1: ["two 'words'", "a\tsecond\ntext ünï 🐍"], 2: ["  "], 3: []}.get(
            number, [f"{source} {number}"]
        )
        rows.append(
            {
                "key": row_key(shard, number),
                "source": source,
                "shard": shard,
                "url": f"https://host.test/{source}/{shard}/{number}.jpg"
                if number != 4
                else f"own/{number}.jpg",
                "caption": texts[0] if texts else None,
                "texts": texts,
                "status": "success" if is_stored else "dns",
                "error_message": None if is_stored else "no such host",
                "width": 40 if is_stored else None,
                "height": 30 if is_stored else None,
                "sha256": sha256(image) if is_stored else None,
                "phash": f"{number:016x}" if is_stored else None,
                "image": image if is_stored else None,
            }
        )
    return rows


def carried_values(source, shard):
    return {
        "uid": [sha256(f"{source}{shard}{n}".encode())[:32] for n in range(ROWS)],
        "similarity": [None if n == 0 else n / 3 for n in range(ROWS)],
        "LICENSE": [f"cc-{n % 2}" for n in range(ROWS)],
    }


def write_corpus(store, source, shard):
    batch = Pack()(table_of(corpus_rows(source, shard), ROW_SCHEMA))
    table = batch.select(CORPUS_SCHEMA.names).cast(CORPUS_SCHEMA)
    for field in CARRIED:
        table = table.append_column(field, pa.array(carried_values(source, shard)[field.name], field.type))
    place = corpus_shard(source, shard)
    files = [store.put(place.tar, encode_tar(batch)), store.put(place.parquet, encode_parquet(table))]
    store.put(place.record, encode(make_corpus_record(batch, "f", files)))


def candidate_rows(source, shard):
    """Web texts and two captions per stored image; a third of them is kept, empty ones have no verdict."""
    rows, number = [], shard
    for row in corpus_rows(source, shard):
        if row["status"] != "success":
            continue
        common = {name: row[name] for name in IMAGE_COLUMNS} | {"round": 1, "threshold": 0.5, "version": 1}
        captions = [f"caption {i} of {row['key']}" for i in range(2)]
        for origin, texts in (("web", row["texts"]), ("synthetic", captions)):
            for index, text in enumerate(texts):
                number += 1
                kept = None if not text.strip() else number % 3 == 0 or row["key"].endswith("1")
                prob = None if kept is None else 0.9 if kept else 0.1
                made = {
                    "origin": origin,
                    "caption_index": index,
                    "text": text,
                    "kept": kept,
                    "itm_prob": prob,
                }
                made |= {"itc_sim": prob, "flags": [], "captioner": "c" if origin == "synthetic" else None}
                rows.append(common | made)
    return rows


def write_candidates(store, source, shard):
    rows = candidate_rows(source, shard)
    place = candidates_shard(1, source, shard)
    file = store.put(place.parquet, encode_parquet(table_of(rows, CANDIDATE_SCHEMA)))
    record = CandidatesRecord(
        source=source,
        shard=shard,
        round=1,
        fingerprint="f",
        files=(file,),
        rows=RowCounts(read=ROWS, status={"success": ROWS - 1, "dns": 1}),
        candidates=count_verdicts(rows),
    )
    store.put(place.record, encode(record))


def export(run_dir, out, form, **request):
    """Write an export without Ray; returns what `run_export` does."""

    def shards_here(plan):
        export_here(plan, lambda doing: None)

    return run_export(
        run_dir, ExportRequest(form=form, out=str(out), **request), shards_here, lambda doing: None
    )


def kept_pairs(run, human=True):
    """The pairs that an export must hold, by DuckDB: a list of rows (dict) in the order of the export."""
    web = f"""
        SELECT c.source, c.key, c.url, c.text, c.origin, c.caption_index, c.itm_prob, c.captioner, c.sha256,
               r.uid, r.similarity, r.LICENSE, c.width
        FROM '{run}/rounds/1/**/*.parquet' c JOIN '{run}/corpus/**/*.parquet' r USING (source, key)
        WHERE c.kept"""
    people = f"""
        SELECT source, key, url, t.text, 'human' AS origin, t.i - 1 AS caption_index, NULL AS itm_prob,
               NULL AS captioner, sha256, uid, similarity, LICENSE, width
        FROM (SELECT *, unnest(texts) AS text, generate_subscripts(texts, 1) AS i
              FROM '{run}/corpus/human/*.parquet' WHERE status = 'success') t
        WHERE trim(t.text) <> ''"""
    query = f"{web} UNION ALL {people}" if human else web
    order = "list_position(['web', 'more', 'human'], source), key, origin = 'synthetic', caption_index"
    found = duckdb.sql(f"SELECT * FROM ({query}) ORDER BY {order}")
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def by_image(pairs):
    """{(source, key): pairs of the image}."""
    images = {}
    for pair in pairs:
        images.setdefault((pair["source"], pair["key"]), []).append(pair)
    return images


def original_image(source, key):
    return image_of(source, int(key[:6]), int(key[6:]))
