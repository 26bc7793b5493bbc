"""What the input of a training reads from the run directory: every file once for all workers, on a local disk
and on S3."""

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from capfilt.stages.pairs.draw import DrawConfig
from capfilt.stages.pairs.read import PairsConfig
from capfilt.stages.pairs.samples import Division, pair_source
from capfilt.stages.pairs.stream import SampleStream, StreamConfig
from capfilt.stages.storage.store import Store
from tests.clean_pairs import clean_pairs
from tests.local_feed import LocalFeed

PAIRS, BATCH_SIZE = 24, 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """(run directory, shards): 24 pairs in three shards."""
    return clean_pairs(tmp_path_factory.mktemp("corpus"))


def data_files(run_dir):
    """{name: size} of the tars and Parquet files of the corpus."""
    found = [path for path in Path(run_dir.url).rglob("*") if path.suffix in (".tar", ".parquet")]
    names = {str(path.relative_to(run_dir.url)): path.stat().st_size for path in found}
    return {name: size for name, size in names.items() if not name.startswith("manifests")}


def read_epoch(monkeypatch, run_dir, shards, workers, window_shards=2):
    """The batches of the first epoch of each worker."""
    feed = LocalFeed(monkeypatch)
    division = Division(batch_size=BATCH_SIZE, workers=workers)
    config = StreamConfig(seed=0, window_shards=window_shards, division=division)
    source = pair_source("training", PairsConfig(run_dir=run_dir), DrawConfig(seed=0))
    streams = [
        SampleStream(shards, source, lambda window, rank=rank: feed.request(window, rank), config).batches()
        for rank in range(workers)
    ]
    return list(islice(zip(*streams, strict=True), PAIRS // BATCH_SIZE))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_bytes_of_a_worker_are_its_share(monkeypatch, corpus, workers):
    run_dir, shards = corpus
    files, reads = data_files(run_dir), Counter()
    original = Store.read

    def read(store, name):
        data = original(store, name)
        reads[name] += len(data)
        return data

    monkeypatch.setattr(Store, "read", read)
    epoch = read_epoch(monkeypatch, run_dir, shards, workers)
    assert {part.position.epoch for parts in epoch for part in parts} == {0}
    # The first window of the next epoch has been read ahead.
    assert {name for name in files if reads[name] not in (files[name], 2 * files[name])} == set()
    assert set(reads) == set(files)
    share = sum(files.values()) / workers
    for part in epoch[-1]:
        assert share == pytest.approx(part.epoch_bytes.read) and part.epoch_bytes.read <= 1.2 * share
    images = {pair.key: len(pair.image) for parts in epoch for part in parts for pair in part.samples}
    received = [part.epoch_bytes.received for part in epoch[-1]]
    assert len(images) == PAIRS
    assert sum(images.values()) < sum(received) < 1.2 * sum(files.values())
    assert max(received) < 1.5 * sum(received) / workers  # images differ in size


def test_the_bytes_of_an_epoch_begin_at_zero_with_it(monkeypatch, corpus):
    run_dir, shards = corpus
    feed = LocalFeed(monkeypatch)
    config = StreamConfig(seed=0, window_shards=9, division=Division(batch_size=BATCH_SIZE))
    source = pair_source("training", PairsConfig(run_dir=run_dir), DrawConfig(seed=0))
    stream = SampleStream(shards, source, lambda window: feed.request(window, 0), config).batches()
    batches = [next(stream) for _ in range(3 * PAIRS // BATCH_SIZE)]
    read = [batch.epoch_bytes.read for batch in batches]
    assert read == [sum(data_files(run_dir).values())] * 6 + [0] * 12, "kept in memory after the first epoch"
    assert len({batch.epoch_bytes.received for batch in batches}) <= 3


@pytest.mark.parametrize("workers", [1, 4])
def test_on_s3_every_file_is_one_request(monkeypatch, corpus, healthy_s3, workers):
    run_dir, shards = corpus
    files = data_files(run_dir)
    remote = Store(f"s3://bucket/input-{workers}", healthy_s3.options)
    for name in files:
        remote.put(name, run_dir.read(name))
    healthy_s3.clear_faults()  # sets the counts back
    epoch = read_epoch(monkeypatch, remote, shards, workers, window_shards=9)
    share = sum(files.values()) / workers
    assert [part.epoch_bytes.read for part in epoch[-1]] == pytest.approx([share] * workers)
    requests = Counter(path for method, path, _ in healthy_s3.requests() if method == "GET")
    assert requests == {f"/bucket/input-{workers}/{name}": 1 for name in files}
