"""The caption stage: which rows are captioned, and what their captions depend on."""

from dataclasses import asdict, replace

import pytest
import torch

from capfilt.models.checkpoints.load import save_checkpoint
from capfilt.models.decoding.config import SamplingConfig
from capfilt.models.tasks.captioner import Caption as WrittenCaption
from capfilt.models.tasks.captioner import Captioner
from capfilt.models.tasks.options import CaptionerOptions
from capfilt.stages.bootstrap.caption import Caption, CaptionConfig
from capfilt.stages.bootstrap.model_source import ModelSource
from tests.models.tiny_med import TOKENIZER, build
from tests.stages.bootstrap.rows import encode_image, make_batch


class FakeCaptioner:
    """Records its calls; a caption is named after its image's key and its index."""

    def __init__(self):
        self.calls = []

    def caption(self, images, keys, *, n, first, run_seed, round):
        assert first == 0
        self.calls.append((images, keys, n, run_seed, round))
        return [
            [
                WrittenCaption(
                    text=f"{key} {index}", caption_index=index, seed=index + 5, logprob=-0.5, tokens=4
                )
                for index in range(n)
            ]
            for key in keys
        ]


@pytest.fixture
def fake(monkeypatch):
    captioner = FakeCaptioner()
    monkeypatch.setattr(Captioner, "from_checkpoint", lambda *_, **__: captioner)
    return captioner


def make_stage(tmp_path, *, seed=0, round=1, **config):
    return Caption(CaptionConfig(**config), ModelSource(checkpoint=str(tmp_path)), seed=seed, round=round)


def test_only_rows_with_an_image_are_captioned(fake, tmp_path):
    batch = make_batch([["a"], ["b"], None, ["c"]], failed=(1,))
    out = make_stage(tmp_path, captions_per_image=2, seed=3, round=4)(batch)
    keys = batch["key"].to_pylist()
    images = [encode_image(shade) for shade in (0, 40, 60)]
    assert fake.calls == [(images, [keys[0], keys[2], keys[3]], 2, 3, 4)]
    captions = out["captions"].to_pylist()
    assert [[c["text"] for c in of_row] for of_row in captions] == [
        [f"{keys[0]} 0", f"{keys[0]} 1"],
        [],
        [f"{keys[2]} 0", f"{keys[2]} 1"],
        [f"{keys[3]} 0", f"{keys[3]} 1"],
    ]
    expected = {"text": f"{keys[0]} 1", "caption_index": 1, "seed": 6, "logprob": -0.5, "tokens": 4}
    expected["captioner"] = None  # there is only one
    assert captions[0][1] == expected
    assert out.drop(["captions"]).equals(batch), "other columns, images and failed rows are unchanged"


@pytest.mark.parametrize(("captions_per_image", "failed"), [(0, ()), (1, (0, 1))])
def test_the_captioner_is_not_called_without_work(fake, tmp_path, captions_per_image, failed):
    batch = make_batch([["a"], ["b"]], failed=failed)
    out = make_stage(tmp_path, captions_per_image=captions_per_image)(batch)
    assert fake.calls == [] and out["captions"].to_pylist() == [[], []]


SAMPLING = SamplingConfig(max_new_tokens=4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioner")
    save_checkpoint(str(folder), build(), TOKENIZER, {})
    return folder


def test_captions_are_those_of_the_captioner_with_the_settings_of_the_config(checkpoint):
    config = CaptionConfig(
        captions_per_image=2, prompt="", sampling=SAMPLING, batch_size=2, precision="float32"
    )
    stage = Caption(config, ModelSource(checkpoint=str(checkpoint), device="cpu"), seed=3, round=2)
    batch = make_batch([["a"], ["b"], ["c"], ["d"]], failed=(2,))
    captions = stage(batch)["captions"].to_pylist()
    options = CaptionerOptions(prompt="", sampling=SAMPLING, precision="float32")
    captioner = Captioner(build(), TOKENIZER, options, device="cpu")
    keys = batch["key"].to_pylist()
    images = [encode_image(20 * number) for number in (0, 1, 3)]
    expected = captioner.caption(images, [keys[0], keys[1], keys[3]], n=2, run_seed=3, round=2)
    assert [captions[i] for i in (0, 1, 3)] == [
        [pytest.approx(asdict(caption) | {"captioner": None}) for caption in of_image]
        for of_image in expected
    ]
    assert [each.batches.size for each in stage.captioners] == [2]


def test_each_captioner_of_an_ensemble_writes_its_own_texts(checkpoint, tmp_path):
    other = build()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    save_checkpoint(str(tmp_path), other, TOKENIZER, {})
    first = ModelSource(checkpoint=str(checkpoint), digest="a" * 16, device="cpu")
    second = ModelSource(checkpoint=str(tmp_path), digest="b" * 16, device="cpu")
    config = CaptionConfig(captions_per_image=2, prompt="", sampling=SAMPLING, precision="float32")
    batch = make_batch([["a"], ["b"], ["c"]], failed=(1,))

    def run(model, **changes):
        return Caption(replace(config, **changes), model, seed=3)(batch)["captions"].to_pylist()

    captions = run(replace(first, others=(second,)))
    assert [len(of_image) for of_image in captions] == [4, 0, 4]
    for of_image, alone in zip(captions, run(first), strict=True):
        assert of_image[:2] == [c | {"captioner": "a" * 16} for c in alone]
    # The second one draws what texts 2 and 3 of a single captioner would draw.
    for of_image, alone in zip(captions, run(second, captions_per_image=4), strict=True):
        for of_two, of_one in zip(of_image[2:], alone[2:], strict=True):  # rounding differs
            expected = of_one | {"captioner": "b" * 16, "logprob": pytest.approx(of_one["logprob"], abs=1e-4)}
            assert of_two == expected
    assert len({c["seed"] for of_image in captions for c in of_image}) == 8


def test_progress_and_notices_are_passed_on(checkpoint):
    stage = Caption(CaptionConfig(batch_size=2), ModelSource(checkpoint=str(checkpoint), device="cpu"))
    calls, lines = [], []
    stage.on_progress(lambda: calls.append(1))
    stage.on_notice(lines.append)
    stage(make_batch([["a"]] * 5))
    assert len(calls) == 3
    stage.captioners[0].batches.on_notice("a line")
    assert lines == ["a line"]
