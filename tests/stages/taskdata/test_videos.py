"""Videos with texts and questions in the layouts of MSRVTT and MSVD; broken records are rows."""

import json

import pytest

from capfilt.stages.taskdata.records import BAD_RECORD, TaskDataError
from capfilt.stages.taskdata.videos import name_of_video, read_video_questions, read_video_texts

KEY = "tasks.t.data.test"
MSRVTT = {
    "videos": [{"video_id": "video0", "split": "train"}, {"video_id": "video1", "split": "test"}],
    "sentences": [
        {"video_id": "video0", "caption": "a dog", "sen_id": 0},
        {"video_id": "video1", "caption": "a cat"},
        {"video_id": "video0", "caption": "two dogs "},
    ],
}


@pytest.fixture
def write(tmp_path):
    """Writes a JSON file, or text; returns its path."""

    def call(name, content):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return str(tmp_path / name)

    return call


def texts(records):
    return {
        record.images[0]: [sample.text for sample in record.samples] for record in records if record.samples
    }


def test_msrvtt_names_videos_splits_and_sentences(write):
    path = write("msrvtt.json", MSRVTT)
    both = {"video0.mp4": ["a dog", "two dogs"], "video1.mp4": ["a cat"]}
    assert texts(read_video_texts(path, None, None, None, KEY)) == both
    assert texts(read_video_texts(path, None, "test", "{video_id}.webm", KEY)) == {"video1.webm": ["a cat"]}
    with pytest.raises(
        TaskDataError, match=r"^tasks\.t\.data\.test\.split: .* no videos of val; allowed: test, train"
    ):
        read_video_texts(path, None, "val", None, KEY)


def test_a_csv_has_sentences_or_takes_those_of_msrvtt(write):
    test = write("test.csv", 'key,vid_key,video_id,sentence\nret0,msr7,video7,"a man, singing"\n')
    assert texts(read_video_texts(test, None, None, None, KEY)) == {"video7.mp4": ["a man, singing"]}
    train, sentences = write("train.csv", "video_id\nvideo0\n"), write("msrvtt.json", MSRVTT)
    assert texts(read_video_texts(train, sentences, None, None, KEY)) == {"video0.mp4": ["a dog", "two dogs"]}
    for file, beside in ((train, None), (test, sentences), (write("x.csv", "a,b\n1,2\n"), None)):
        with pytest.raises(
            TaskDataError, match=r"^tasks\.t\.data\.test\.file: .* has the columns .*; needed are"
        ):
            read_video_texts(file, beside, None, None, KEY)


@pytest.mark.parametrize("lines", [True, False])
def test_lists_and_lines_of_texts_with_broken_ones(write, lines):
    entries = [
        {"clip_name": "video1", "caption": "a"}, {"video": "b.avi", "sentence": "b"}, {"caption": "c"},
        {"video_id": "d", "caption": " "}, {"video_id": True, "caption": "e"}, {"video_id": "f"},
    ]  # fmt: skip
    content = "\n".join([*map(json.dumps, entries), "{oops"]) if lines else entries
    found = read_video_texts(write("list.json", content), None, None, None, KEY)
    assert texts(found) == {"video1.mp4": ["a"], "b.avi": ["b"]}
    messages = [record.message for record in found if record.status == BAD_RECORD]
    expected = ["'video_id' is missing", "' ' is no text", "True names no video", "'caption' is missing"]
    assert messages[:4] == expected and (not lines or messages[4].startswith("line 7 is no JSON"))


def test_questions_of_msrvtt_qa_are_grouped_by_their_first_word(write):
    path = write(
        "qa.json",
        [
            {"id": 5, "video_id": 7, "question": "What is it?", "answer": "dog", "category_id": 1},
            {"id": 6, "video_id": 7, "question": "is it red", "answer": 2},
            {"video_id": "vid8.avi", "question": "who?", "answer_type": "person"},
            {"video_id": 9, "question": ""},
            {"question": "what?"},
            3,
        ],
    )
    first, second, *bad = read_video_questions(path, None, KEY)
    assert first.images == ("video7.mp4",) and second.images == ("vid8.avi",)
    assert [(s.id, s.text, s.answers, s.group) for s in first.samples] == [
        ("5", "What is it?", ["dog"], "what"), ("6", "is it red", ["2"], ""),
    ]  # fmt: skip
    assert (second.samples[0].answers, second.samples[0].group) == ([], "person")
    assert [record.message for record in bad] == [
        "'' is no text", "'video_id' is missing", "3 is no record",
    ]  # fmt: skip
    (named, *_) = read_video_questions(path, "vid{video_id}.avi", KEY)
    assert named.images == ("vid7.avi",)


def test_other_files_are_refused_with_key_and_advice(write):
    for content, message in (({"a": 1}, "has no texts of videos"), ("{", "cannot be read as JSON")):
        with pytest.raises(TaskDataError, match=rf"^tasks\.t\.data\.test\.file: .* {message}"):
            read_video_texts(write("x.json", content), None, None, None, KEY)
    with pytest.raises(TaskDataError, match=r"^tasks\.t\.data\.test\.file: .* has no questions about videos"):
        read_video_questions(write("x.json", []), None, KEY)
    with pytest.raises(TaskDataError, match=r"^tasks\.t\.data\.test\.annotations: only for a csv"):
        read_video_texts(write("x.json", []), write("y.json", MSRVTT), None, None, KEY)


@pytest.mark.parametrize(
    ("video", "name"),
    [(7, "video7.mp4"), ("video7", "video7.mp4"), ("a/b.c/d", "a/b.c/d.mp4"), ("x.avi", "x.avi")],
)
def test_names_of_files(video, name):
    assert name_of_video(video, None) == name
