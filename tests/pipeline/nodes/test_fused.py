"""Captioner and filter in one process give the rows that they give in processes of their own."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from ray import cloudpickle

from capfilt.cluster.chain.steps import FusedRunner, StageRunner
from capfilt.cluster.sizing import ActorPool, Sizing, Split
from capfilt.models.checkpoints.load import save_checkpoint
from capfilt.models.decoding.config import SamplingConfig
from capfilt.models.images import shared
from capfilt.models.out_of_memory import OutOfMemory
from capfilt.models.tasks import placement
from capfilt.pipeline.nodes.chain import model_steps
from capfilt.stages.bootstrap.caption import Caption, CaptionConfig
from capfilt.stages.bootstrap.filter import Filter, FilterConfig
from capfilt.stages.bootstrap.model_source import ModelSource
from capfilt.stages.rows import with_column
from tests.local_run import IgnoringStatus
from tests.models.tiny_med import TOKENIZER, build
from tests.stages.bootstrap.rows import make_batch

TEXTS = [["a dog", "two cats"], ["a red circle"], [], None, ["..."], ["a bird"], ["a blue square"], ["x"]]
CAPTION = CaptionConfig(
    captions_per_image=2, prompt="", sampling=SamplingConfig(max_new_tokens=4), batch_size=3
)
FILTER = FilterConfig(batch_size=3)


def fail_on(batch, keys):
    """Raise for active rows with such a key."""
    rows = zip(batch["key"].to_pylist(), batch["status"].to_pylist(), strict=True)
    for key, status in rows:
        if status == "success" and key in keys:
            raise KeyError(f"cannot process {key}")


class FailingCaption(Caption):
    keys: tuple[str, ...] = ()

    def __call__(self, batch):
        fail_on(batch, self.keys)
        return super().__call__(batch)


class FailingFilter(Filter):
    keys: tuple[str, ...] = ()

    def __call__(self, batch):
        fail_on(batch, self.keys)
        return super().__call__(batch)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Addresses of two checkpoints with different weights."""
    addresses = []
    for factor in (1.0, 1.3):
        med = build()
        with torch.no_grad():
            for parameter in med.parameters():
                parameter.mul_(factor)
        folder = tmp_path_factory.mktemp("model")
        save_checkpoint(str(folder), med, TOKENIZER, {})
        addresses.append(ModelSource(checkpoint=str(folder), digest=f"{factor:.1f}", device="cpu"))
    return addresses


@pytest.fixture
def decodes(monkeypatch):
    """Images that were decoded, by whoever."""
    calls = []
    for module in (shared, placement):
        original = module.decode_image
        monkeypatch.setattr(
            module, "decode_image", lambda image, original=original: calls.append(image) or original(image)
        )
    return calls


class Reports(IgnoringStatus):
    """What a `NodeStatus` is told."""

    def __init__(self):
        self.lines = []

    def report_failure(self, cause, *, shard=None, stage=None, wait=False):
        self.lines.append((cause, shard, stage))

    def add_notice(self, line):
        self.lines.append(line)


@pytest.fixture
def run(models, monkeypatch, decodes):
    """Runs both stages on a batch; returns the rows, what was reported, and how many images were decoded.

    Args:
        fused: in one process.
        caption, judge: settings.
        ensembles: number of captioners, and of filters.
        fails: keys of rows on which the captioner raises, and on which the filter does.
    """

    def call(batch, *, fused, caption=CAPTION, judge=FILTER, ensembles=(1, 1), fails=((), ())):
        def source(count):
            return replace(models[0], others=tuple(models[1:count]))

        monkeypatch.setattr(FailingCaption, "keys", fails[0])
        monkeypatch.setattr(FailingFilter, "keys", fails[1])
        pool = ActorPool(1, 0.5, 0.0)
        steps = model_steps(
            partial(FailingCaption, caption, source(ensembles[0]), seed=3, round=2),
            partial(FailingFilter, judge, source(ensembles[1]), keep_images=True),
            Sizing(pool, pool, pool, 4, 0, split=Split(fused=fused)),
        )
        assert [step.fused for step in steps] == [False, fused]
        status = Reports()
        steps = [replace(step, node_status=status) for step in steps]
        decodes.clear()
        if fused:
            runner = FusedRunner(steps)
        else:
            first, second = map(StageRunner, steps)
            runner = lambda rows: second(first(rows))  # noqa: E731
        try:
            out = runner(batch)
        except Exception as error:
            return error, status.lines, len(decodes)
        assert all(out[f"seconds_{name}"][0].as_py() > 0 for name in ("caption", "filter"))
        return out.drop_columns(["seconds_caption", "seconds_filter"]), status.lines, len(decodes)

    return call


def broken(batch, row):
    """The batch with an image that is cut off."""
    images = batch["image"].to_pylist()
    images[row] = images[row][:-30]
    return with_column(batch, "image", images, batch.schema.field("image").type)


A, B, C = "00000000001", "00000000002", "00000000006"


@pytest.mark.parametrize(
    ("options", "decoded"),
    [
        ({}, 7),
        ({"caption": replace(CAPTION, captions_per_image=0)}, 4),  # only the web texts are judged
        ({"caption": replace(CAPTION, image_size=48)}, 7),
        ({"caption": replace(CAPTION, image_size=16), "judge": replace(FILTER, image_size=64)}, 7),
        ({"ensembles": (2, 2)}, 7),
        ({"ensembles": (1, 2), "judge": replace(FILTER, image_size=16)}, 7),
        ({"fails": ((A,), ())}, None),
        ({"fails": ((), (B,))}, None),
        ({"fails": ((A, C), (B, C))}, None),  # C fails in the first of them
    ],
    ids=["plain", "web texts", "large captioner", "two sizes", "ensembles", "filters", "a", "b", "both"],
)
def test_rows_are_those_of_separate_stages(run, options, decoded):
    batch = make_batch(TEXTS, failed=(5,))
    apart, apart_lines, _ = run(batch, fused=False, **options)
    together, lines, images = run(batch, fused=True, **options)
    assert together.schema == apart.schema and together.equals(apart)
    assert lines == apart_lines == []
    assert decoded in (None, images)
    fails = {key for keys in options.get("fails", ()) for key in keys}
    failed = {row["key"] for row in together.to_pylist() if row["status"] == "internal"}
    assert failed == fails


def test_both_stages_are_sent_to_a_process_with_the_same_pixels():
    pool = ActorPool(2, 0.5, 0.0)
    steps = model_steps(
        partial(Caption), partial(Filter), Sizing(pool, pool, pool, 4, 0, split=Split(fused=True))
    )
    steps = [replace(step, make=lambda make=step.make: make) for step in steps]  # as logging wraps them
    caption, judge = (step.make() for step in cloudpickle.loads(cloudpickle.dumps(tuple(steps))))
    assert caption.keywords["pixels"] is judge.keywords["pixels"] is not None
    apart = model_steps(partial(Caption), partial(Filter), Sizing(pool, pool, pool, 4, 0))
    assert [step.make.keywords for step in apart] == [{}, {}]


def test_separate_stages_decode_for_each_model(run):
    assert run(make_batch(TEXTS, failed=(5,)), fused=False)[2] == 14


def test_image_that_cannot_be_decoded_fails_in_the_captioner(run):
    batch = broken(make_batch(TEXTS), 1)
    apart, _, _ = run(batch, fused=False)
    together, _, _ = run(batch, fused=True)
    assert together.equals(apart)
    row = together.to_pylist()[1]
    assert (row["status"], row["candidates"], row["captions"]) == ("internal", [], [])


@pytest.mark.parametrize("stage", ["caption", "filter"])
def test_stage_that_raises_on_every_row_is_named(run, stage):
    batch = make_batch(TEXTS)
    keys = tuple(batch["key"].to_pylist())
    fails = (keys, ()) if stage == "caption" else ((), keys)
    apart, apart_lines, _ = run(batch, fused=False, fails=fails)
    together, lines, _ = run(batch, fused=True, fails=fails)
    assert isinstance(together, KeyError) and str(together) == str(apart)
    assert lines == apart_lines and [line[2] for line in lines] == [stage]


def test_lack_of_memory_is_that_of_the_stage(run, monkeypatch):
    def short(self, *_, **__):
        raise OutOfMemory("a GPU is full")

    monkeypatch.setattr(Filter, "_judge", short)
    error, lines, _ = run(make_batch(TEXTS), fused=True)
    assert isinstance(error, OutOfMemory)
    assert lines == [("filter: OutOfMemory: a GPU is full", "web/000000", "filter")]


def test_notices_and_progress_are_those_of_each_stage(run, monkeypatch):
    out, lines, _ = run(make_batch(TEXTS), fused=True)
    made = []
    monkeypatch.setattr(
        FailingFilter,
        "__call__",
        lambda self, batch: made.append(self) or Filter.__call__(self, batch),
    )
    monkeypatch.setattr(
        FailingCaption,
        "__call__",
        lambda self, batch: self.captioners[0].batches.on_notice("a line") or Caption.__call__(self, batch),
    )
    again, lines, _ = run(make_batch(TEXTS), fused=True)
    assert again.equals(out) and lines == ["caption: a line"]
    (judge,) = made
    judge.matcher.matchers[0].batches.on_notice("another")
    assert lines[1:] == ["filter: another"]
    # The watchdog of each stage is reset by its own micro-batches.
    assert judge.matcher.matchers[0].batches.on_progress.__self__.__class__.__name__ == "Watchdog"
