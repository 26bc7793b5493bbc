"""Figures of tasks, what chance is, and the files of the challenges."""

import json

import pytest
import torch

from capfilt.models.tasks.retrieval import recall_from_scores
from capfilt.pipeline.tasks.figures import (
    combine_figures,
    compute_chance,
    compute_figures,
    random_recall,
    result_files,
)


def question(number, answers, ranked, generated="", group=""):
    row = {"id": str(number), "answers": answers, "ranked": ranked}
    return row | {"generated": generated, "group": group}


QUESTIONS = [
    question(1, ["yes"] * 10, "yes", "yes", "yes/no"),
    question(2, ["yes"] * 4 + ["no"] * 6, "no", "maybe", "yes/no"),
    question(3, ["red"] * 10, "blue", "red", "other"),
    question(4, [], "a", "b"),  # a question of the test without answers
]


def test_questions_are_scored_as_a_whole_and_by_type():
    figures = compute_figures("vqa", QUESTIONS)
    assert next(iter(figures)) == "vqa_score"
    assert figures == pytest.approx({"vqa_score": 200 / 3, "generated": 200 / 3, "yes/no": 100, "other": 0})
    assert compute_figures("vqa", QUESTIONS[3:]) == {}


def test_chance_of_questions_is_the_best_answer_to_all_of_them():
    assert compute_chance("vqa", QUESTIONS) == {"chance": pytest.approx(200 / 3)}  # "yes": 1, 1 and 0


def test_statements_are_right_from_one_half_on_and_chance_is_the_frequent_label():
    rows = [{"id": str(i), "label": label, "probability": p} for i, (label, p) in enumerate(
        [(1, 0.5), (1, 0.4), (0, 0.1), (1, 0.9), (-1, 0.9)]
    )]  # fmt: skip
    assert compute_figures("nlvr2", rows) == {"accuracy": 75.0}
    assert compute_chance("nlvr2", rows) == {"chance": 75.0}
    assert result_files("nlvr2", rows)["predictions.csv"].splitlines()[:2] == ["0,True", "1,False"]


@pytest.mark.parametrize("texts", [[1] * 12, [2, 3, 1, 0, 5, 1], [1]])
def test_random_recall_is_what_random_scores_get(texts):
    generator, images = torch.Generator().manual_seed(0), len(texts)
    owners = torch.tensor([i for i, count in enumerate(texts) for _ in range(count)])
    positive = owners[None] == torch.arange(images)[:, None]
    runs = []
    for _ in range(3000):
        scores = torch.rand(positive.shape, generator=generator)
        asked = positive.any(dim=1)
        both = [*recall_from_scores(scores[asked], positive[asked]).values()]
        both += recall_from_scores(scores.T, positive.T).values()
        runs.append(sum(both) / 6)
    assert random_recall(texts) == pytest.approx(sum(runs) / len(runs), abs=1.0)


def test_chance_of_captions_is_that_of_other_images():
    rows = [
        {"id": str(i), "caption": text, "texts": [text], "group": ""}
        for i, text in enumerate(["a red dog on a hill", "two blue cars in rain", "one tree by the lake"])
    ]
    assert compute_figures("caption", rows)["cider"] == pytest.approx(1000)
    assert compute_chance("caption", rows)["chance"] < 100


def test_captions_of_each_domain_are_scored_among_themselves():
    texts = ["a red dog on a hill", "two blue cars in rain", "one tree by the lake", "a red dog runs here"]
    domains = ["in-domain", "out-domain", "in-domain", ""]
    rows = [
        {"id": str(i), "caption": texts[(i + 1) % 4] + " " + text, "texts": [text], "group": domain}
        for i, (text, domain) in enumerate(zip(texts, domains, strict=True))
    ]
    figures = compute_figures("caption", rows)
    assert next(iter(figures)) == "cider" and list(figures)[-2:] == ["in-domain", "out-domain"]
    pair = [row | {"group": ""} for row in rows if row["group"] == "in-domain"]
    assert figures["in-domain"] == compute_figures("caption", pair)["cider"] != figures["cider"]
    assert "" not in figures


def test_figures_of_the_start_stand_beside_those_of_the_model():
    combined = combine_figures("vqa", {"vqa_score": 80.0, "other": 70.0}, {"vqa_score": 5.0, "other": 1.0})
    assert combined == {"vqa_score": 80.0, "other": 70.0, "start": 5.0, "start_other": 1.0}


def test_answers_are_written_in_the_form_of_the_challenge():
    files = result_files("vqa", QUESTIONS)
    assert json.loads(files["answers.json"])[0] == {"question_id": 1, "answer": "yes"}
    assert json.loads(files["answers_generated.json"])[3] == {"question_id": 4, "answer": "b"}


def test_video_answers_are_those_generated_and_chance_is_the_most_frequent():
    rows = [
        question(1, ["a man"], "x", "Man", "who"), question(2, ["dog"], "dog", "cat", "what"),
        question(3, ["dog"], "dog", "dog", "what"), question(4, [], "a", "b"),
    ]  # fmt: skip
    figures = compute_figures("video_qa", rows)
    assert next(iter(figures)) == "accuracy"
    assert figures == pytest.approx({"accuracy": 200 / 3, "ranked": 200 / 3, "what": 50, "who": 100})
    assert compute_chance("video_qa", rows) == {"chance": pytest.approx(200 / 3)}
    free = [row | {"ranked": None} for row in rows]
    assert "ranked" not in compute_figures("video_qa", free)
    assert list(result_files("video_qa", free)) == ["answers_generated.json"]


def test_recalls_of_videos_are_named_from_text_to_video():
    found = {"r_mean": 1.0, "ir@1": 40.0, "tr@1": 30.0, "itc_ir@1": 20.0, "itc_tr@1": 10.0, "ir_mdr": 2.0}
    figures = compute_figures("video_retrieval", [{"retrieval": found}])
    assert next(iter(figures)) == "r@1"
    assert figures == {"r@1": 40.0, "mdr": 2.0, "itc_r@1": 20.0, "v2t_r@1": 30.0, "itc_v2t_r@1": 10.0}
    assert compute_chance("video_retrieval", [], [1, 2, 1, 0]) == {"chance": 25.0}


def test_dialogs_have_ranks_of_known_answers_and_ndcg_of_dense_annotations():
    rows = [
        {"id": "7-1", "label": 1, "relevance": [], "scores": [0.5, 0.2, 0.9]},
        {"id": "7-2", "label": 0, "relevance": [1.0, 0.0, 0.0], "scores": [0.5, 0.2, 0.9]},
        {"id": "8-10", "label": -1, "relevance": [0.0, 0.0], "scores": [0.1, 0.2]},
    ]
    figures = compute_figures("visdial", rows)
    assert next(iter(figures)) == "mrr"
    assert figures == pytest.approx(
        {"mrr": 100 * (1 / 3 + 1 / 2) / 2, "r@1": 0, "r@5": 100, "r@10": 100, "mean_rank": 2.5, "ndcg": 0}
    )
    assert compute_chance("visdial", rows) == {"chance": pytest.approx(100 * (1 + 1 / 2 + 1 / 3) / 3)}
    assert json.loads(result_files("visdial", rows)["ranks.json"])[2] == {
        "image_id": 8, "round_id": 10, "ranks": [2, 1],
    }  # fmt: skip
    assert compute_figures("visdial", rows[2:]) == {}
