"""The sample of a small run, against the manifest that it is drawn from."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.cluster.sizing import divide_resources
from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.estimate.measured import Machines
from capfilt.pipeline.estimate.record import PlanError
from capfilt.pipeline.probe import sample as module
from capfilt.pipeline.probe.run import PlanRequest, assume_machines, default_rows, small_run
from capfilt.pipeline.probe.sample import Sample
from capfilt.pipeline.probe.without_network import take_placeholder
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index, read_shard
from capfilt.stages.storage.store import Store
from tests.tiny import tiny_data

HERE = Machines(cpus=4, gpus=0, cores=2)
GPUS = Machines(cpus=16, gpus=2, cores=16)


@pytest.fixture
def manifest(tmp_path):
    """Two Parquet files with 300 and 700 rows."""
    numbers = iter(range(1000))
    for name, count in (("a", 300), ("b", 700)):
        urls = [f"http://x.example/{next(numbers)}.jpg" for _ in range(count)]
        table = pa.table({"url": urls, "text": urls, "license": ["cc"] * count})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    return ManifestConfig(manifest=str(tmp_path / "*.parquet"), shard_size=100, keep_columns="all")


def drawn(manifest, folder, **options):
    """(urls, sizes of the shards) of a sample."""
    store = Store(str(folder))
    index = build_index(manifest, store, source="web", cut=Sample(**options))
    shards = [read_shard(store, number) for number in range(index.shards)]
    return [url for shard in shards for url in shard["url"].to_pylist()], [s.num_rows for s in shards]


def test_rows_are_drawn_from_the_whole_manifest_and_cut_unequally(manifest, tmp_path):
    urls, sizes = drawn(manifest, tmp_path / "one", rows=64)
    assert sizes == [4, 4, 4, 4, 16, 16, 16]
    assert len(set(urls)) == 64
    again, _ = drawn(manifest, tmp_path / "two", rows=64)
    other, _ = drawn(manifest, tmp_path / "three", rows=64, seed=1)
    assert urls == again and urls != other
    everything, _ = drawn(manifest, tmp_path / "four", rows=5000)
    assert Counter(everything) == Counter(f"http://x.example/{n}.jpg" for n in range(1000))


def test_every_row_is_equally_likely(manifest, tmp_path):
    seen = Counter()
    for seed in range(5):
        urls, _ = drawn(manifest, tmp_path / str(seed), rows=200, seed=seed)
        seen.update(int(url.rsplit("/", 1)[1][:-4]) // 100 for url in urls)
    # 100 expected in each tenth; the standard deviation is about sqrt(5 x 200 x 0.1 x 0.9 x 0.8) = 8.5.
    assert max(abs(count - 100) for count in seen.values()) < 4 * 8.5


def test_of_a_large_manifest_only_the_first_rows_of_some_files_are_read(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WHOLE_BYTES", 10)
    monkeypatch.setattr(module, "DRAWN_FILES", 1)
    monkeypatch.setattr(module, "FIRST_ROWS", 50)
    urls, _ = drawn(manifest, tmp_path / "one", rows=64)
    numbers = {int(url.rsplit("/", 1)[1][:-4]) for url in urls}
    assert numbers in (set(range(50)), set(range(300, 350)))


def test_placeholders_take_the_place_of_images_on_the_web(manifest, tmp_path):
    urls, _ = drawn(manifest, tmp_path / "one", rows=20, change=take_placeholder)
    assert urls == [f"{number:05d}.jpg" for number in range(20)]


def config_of(tmp_path, **changes):
    return parse_config(tiny_data(tmp_path) | changes, "test")


def test_small_run_is_removed_whatever_happens(tmp_path):
    config = config_of(tmp_path, shapes=None)
    shapes = tmp_path / "shapes"
    for kind in ("human", "test"):
        (shapes / kind).mkdir(parents=True)
        (shapes / kind / "annotations.json").write_text('[{"image": "a.jpg", "caption": "a"}]')
    (shapes / "web").mkdir()
    pq.write_table(
        pa.table({"url": ["a"], "caption": ["b"], "truth": ["c"]}), shapes / "web/manifest.parquet"
    )
    folder = tmp_path / "run"
    with small_run(config, PlanRequest(), []) as probe:
        assert sorted(probe.store.list("manifests")) == ["human", "test", "web"]
    assert not folder.exists()
    with pytest.raises(KeyboardInterrupt), small_run(config, PlanRequest(), []):
        raise KeyboardInterrupt
    assert not folder.exists()
    (folder / "nodes").mkdir(parents=True)
    (folder / "nodes/left.json").write_text("{}")
    (folder / "config.yaml").write_text("x: 1")
    with small_run(config, PlanRequest(), []) as probe:  # what a killed process has left does not count
        assert not probe.store.list("nodes")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("request_", "part"),
    [
        ({"rows": 13}, "--rows 13: give a number of at least 14"),
        ({"rows": 0}, "--rows 0: give a number of at least 14"),
        ({"steps": 1}, "--steps 1: give a number of at least 2"),
        ({"cpus": 0.5}, "--cpus 0.5: give a number of at least 1"),
        ({"gpus": -1}, "--gpus -1: give a number of at least 0"),
        ({"gpu_price": -0.1}, "--price-per-gpu-hour -0.1: give a number of at least 0"),
        ({"cpu_price": float("inf")}, "--price-per-cpu-hour inf: give a number of at least 0"),
        ({"cpu_price": float("nan")}, "--price-per-cpu-hour nan: give a number of at least 0"),
    ],
)
def test_numbers_out_of_range(request_, part):
    with pytest.raises(PlanError, match=part):
        PlanRequest(**request_).check()


def test_smallest_numbers_are_taken():
    PlanRequest(rows=14, steps=2, cpus=1, gpus=0, gpu_price=0, cpu_price=0).check()


def test_gpus_need_a_gpu_to_measure_with(tmp_path):
    config = config_of(tmp_path)
    for wanted, here in ((8, HERE), (0, GPUS)):
        with pytest.raises(PlanError, match=f"--gpus {wanted}: the machine that measures has"):
            assume_machines(config, PlanRequest(gpus=wanted), here)
    machines, sizing = assume_machines(config, PlanRequest(gpus=16, cpus=128), GPUS)
    assert machines == Machines(cpus=128, gpus=16, cores=128)
    assert sizing == divide_resources(config.cluster, cpus=128, gpus=16)
    assert assume_machines(config, PlanRequest(), HERE)[0] == HERE


def test_rows_fill_batches_on_gpus(tmp_path):
    config = config_of(tmp_path)
    assert default_rows(config, HERE) == 256
    assert default_rows(config, GPUS) == 16 * config.filter.judge.batch_size
