"""Dialogs and videos of shapes: planted answers that are true, in layouts that the readers understand."""

import io
import json

import av
import numpy as np
import pytest
from PIL import Image

from capfilt.pipeline.corpora.scenes import COLORS, SHAPES
from capfilt.pipeline.corpora.shapes import ShapesConfig, make_shapes
from capfilt.stages.taskdata.dialogs import read_dialogs
from capfilt.stages.taskdata.videos import read_video_questions, read_video_texts
from capfilt.stages.videos.frames import read_frames

SHAPE_OF_WORD = {word: shape for shape, words in SHAPES.items() for word in words}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    config = ShapesConfig(human=1, web=1, test=1, dialogs=60, videos=24, image_size=32)
    return make_shapes(config, tmp_path_factory.mktemp("shapes") / "corpus")


def colors_in(path):
    """The named colors in an image."""
    pixels = np.asarray(Image.open(path).convert("RGB"), int).reshape(-1, 3)
    return {name for name, color in COLORS.items() if (abs(pixels - color).max(axis=1) < 25).sum() > 3}


def test_answers_in_dialogs_are_true_and_it_is_the_shape_of_the_question_before(corpus):
    records = read_dialogs(str(corpus / "visdial/train.json"), None, "{image_id:06d}.jpg", "k")
    assert len(records) == 60
    asked = set()
    for record in records:
        image, texts = corpus / "visdial/train" / record.images[0], []
        for sample in record.samples:
            right = sample.answers[sample.label]
            assert sample.context == [record.samples[0].context[0], *texts] and len(set(sample.answers)) == 12
            if sample.text == "what color is it?":
                assert sample.context[-1] == "yes" and right in colors_in(image)
            if sample.text.startswith("how many"):
                assert f"with {right} " in sample.context[0]
            texts += [sample.text, right]
            asked.add(sample.text.split()[0])
    assert asked == {"how", "is", "what"}


def test_dense_annotations_know_synonyms(corpus):
    dense = str(corpus / "visdial/test_dense.json")
    records = read_dialogs(str(corpus / "visdial/test.json"), dense, "{image_id:06d}.jpg", "k")
    with_dense = [sample for record in records for sample in record.samples if sample.relevance]
    assert len(with_dense) == len(records) == 15
    for sample in with_dense:
        assert sample.relevance[sample.label] == 1.0 and set(sample.relevance) <= {0.0, 0.4, 1.0}


def centers(path):
    """The center of the shape in every eighth of a video, as (x, y)."""
    found = []
    for frame in read_frames(path.read_bytes(), 8):
        pixels = np.asarray(Image.open(io.BytesIO(frame)).convert("RGB"), int)
        is_shape = abs(pixels - pixels[0, 0]).max(axis=2) > 60
        found.append(np.argwhere(is_shape).mean(axis=0)[::-1])
    return np.array(found)


def test_videos_show_what_their_texts_and_answers_say(corpus):
    path = str(corpus / "videos/msrvtt.json")
    videos = [r for part in ("train", "test") for r in read_video_texts(path, None, part, None, "k")]
    questions = {
        record.images[0]: {
            sample.text.split()[0] + sample.text.split()[1]: sample.answers[0] for sample in record.samples
        }
        for split in ("train", "test")
        for record in read_video_questions(str(corpus / f"videos/{split}_qa.json"), None, "k")
    }
    assert len(videos) == len(questions) == 30
    for record in videos:
        file = corpus / "videos/files" / record.images[0]
        _, color, word, _, *axis = record.samples[0].text.split()
        answers = questions[record.images[0]]
        assert answers == {"whatcolor": color, "whatshape": SHAPE_OF_WORD[word], "howdoes": " ".join(axis)}
        spread = np.ptp(centers(file), axis=0)
        assert (spread[0] > 10 > spread[1]) == (axis == ["sideways"]), record.samples[0].text
    with av.open(str(corpus / "videos/files/video0.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 16


def test_texts_of_test_videos_belong_to_one_video_each(corpus):
    records = read_video_texts(str(corpus / "videos/test.csv"), None, None, None, "k")
    facts = [tuple(SHAPE_OF_WORD.get(w, w) for w in r.samples[0].text.split()[1:]) for r in records]
    assert len(set(facts)) == len(records) == 6


def test_a_corpus_without_them_stays_as_it_was(tmp_path):
    root = make_shapes(ShapesConfig(human=1, web=1, test=1), tmp_path / "plain")
    assert not (root / "visdial").exists() and not (root / "videos").exists()
    made = json.loads((root / "shapes.json").read_text())
    del made["dialogs"], made["videos"]
    (root / "shapes.json").write_text(json.dumps(made))  # as an earlier version has written it
    assert make_shapes(ShapesConfig(human=1, web=1, test=1), tmp_path / "plain") == root
