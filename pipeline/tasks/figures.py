"""The figures of a downstream task, from what a model says to its test samples, and the files of results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from math import comb
from statistics import fmean
from typing import Any

from capfilt.pipeline.config.tasks import METRICS, Kind
from capfilt.pipeline.evaluation.caption_metrics import compute_caption_metrics, group_keys
from capfilt.pipeline.tasks.scores.dialog_score import (
    ndcg,
    random_mrr,
    rank_answer,
    rank_candidates,
    score_ranks,
)
from capfilt.pipeline.tasks.vqa_score import normalize_answer, score_answer
from capfilt.stages.taskdata.records import NO_LABEL, TRUE

Rows = Sequence[Mapping[str, Any]]
"""What `predict` returns."""
RECALL_AT = (1, 5, 10)


def compute_figures(kind: Kind, rows: Rows) -> dict[str, float]:
    """The figures of a model in percent, the metric of the kind first; {} without samples to score."""
    match kind:
        case "vqa":
            return _score_answers(rows)
        case "nlvr2":
            judged = [row for row in rows if row["label"] != NO_LABEL]
            return {"accuracy": 100 * fmean(map(_is_right, judged))} if judged else {}
        case "caption":
            return _score_captions(rows)
        case "retrieval":
            found = dict(rows[0]["retrieval"])
            return {"r_mean": found.pop("r_mean"), **found}
        case "classification":
            return _score_classes(rows)
        case "visdial":
            return _score_dialogs(rows)
        case "video_retrieval":
            return _rename_recalls(rows[0]["retrieval"])
        case "video_qa":
            return _score_video_answers(rows)


def compute_chance(kind: Kind, rows: Rows, texts: Sequence[int] = ()) -> dict[str, float]:
    """{"chance": the metric of a model that sees no image}, computed from the test samples.

    * vqa: the one answer that scores best when it is given to every question.
    * nlvr2: the more frequent label.
    * caption: each image gets the first caption of the next one.
    * retrieval, visdial, video_retrieval: random ranks.
    * video_qa: the most frequent answer.
    * classification: the most frequent class.

    Args:
        texts: retrieval: the number of texts of each image.
    """
    match kind:
        case "vqa":
            asked = [row["answers"] for row in rows if row["answers"]]
            return {"chance": 100 * max(_constant_scores(asked).values())} if asked else {}
        case "nlvr2":
            labels = Counter(row["label"] for row in rows if row["label"] != NO_LABEL)
            return {"chance": 100 * max(labels.values()) / labels.total()} if labels else {}
        case "caption":
            shown = [row for row in rows if row["texts"]]
            moved = [
                {**row, "caption": shown[(i + 1) % len(shown)]["texts"][0]} for i, row in enumerate(shown)
            ]
            return {"chance": compute_figures("caption", moved)["cider"]} if shown else {}
        case "retrieval":
            return {"chance": random_recall(texts)} if sum(texts) else {}
        case "classification":
            of_images = Counter(label for row in rows for label in row["answers"])
            return {"chance": 100 * max(of_images.values()) / len(rows)} if of_images else {}
        case "video_retrieval":
            return {"chance": 100 / len(texts)} if sum(texts) else {}
        case "video_qa":
            answers = Counter(normalize_answer(row["answers"][0]) for row in rows if row["answers"])
            return {"chance": 100 * max(answers.values()) / answers.total()} if answers else {}
        case "visdial":
            counts = [len(row["scores"]) for row in rows if row["label"] != NO_LABEL]
            return {"chance": random_mrr(counts)} if counts else {}


def combine_figures(kind: Kind, model: Mapping[str, float], start: Mapping[str, float]) -> dict[str, float]:
    """The figures of a model beside those of its start: "start" for the metric, "start_<figure>" for the
    others."""
    metric = METRICS[kind]
    found = dict(model)
    if metric in start:
        found["start"] = start[metric]
    return found | {f"start_{name}": value for name, value in start.items() if name != metric}


def random_recall(texts: Sequence[int]) -> float:
    """The mean of the six recalls of random ranks, in percent.

    Args:
        texts: the number of texts of each image.
    """
    queries = [positives for positives in texts if positives]
    images, gallery = len(texts), sum(texts)

    def found(positives: int, items: int, at: int) -> float:
        return 1 - comb(items - positives, at) / comb(items, at) if at < items else 1.0

    to_texts = [fmean(found(positives, gallery, at) for positives in queries) for at in RECALL_AT]
    return 100 * fmean([*to_texts, *(found(1, images, at) for at in RECALL_AT)])


def result_files(kind: Kind, rows: Rows) -> dict[str, str]:
    """{name: content} of the files in the form of the challenges."""
    match kind:
        case "vqa" | "video_qa":
            return {
                name: json.dumps(
                    [{"question_id": _number(row["id"]), "answer": row[which]} for row in rows],
                    ensure_ascii=False,
                )
                for name, which in (("answers.json", "ranked"), ("answers_generated.json", "generated"))
                if all(row[which] is not None for row in rows)
            }
        case "nlvr2":
            lines = (f"{row['id']},{row['probability'] >= 0.5}\n" for row in rows)
            return {"predictions.csv": "".join(lines)}
        case "caption":
            captions = [{"image_id": _number(row["id"]), "caption": row["caption"]} for row in rows]
            return {"captions.json": json.dumps(captions, ensure_ascii=False)}
        case "classification":
            named = ({name: row[name] for name in ("id", "answers", "ranked")} for row in rows)
            return {"predictions.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in named)}
        case "visdial":
            return {"ranks.json": json.dumps([_ranks_of(row) for row in rows])}
        case "retrieval" | "video_retrieval":
            return {}


def _score_captions(rows: Rows) -> dict[str, float]:
    """The metrics of all captions, and CIDEr among the images of each domain."""
    scored = {row["id"]: row for row in rows if row["texts"]}
    if not scored:
        return {}
    captions = {key: row["caption"] for key, row in scored.items()}
    texts = {key: row["texts"] for key, row in scored.items()}
    figures = compute_caption_metrics(captions, texts)
    for domain, keys in group_keys({key: row["group"] for key, row in scored.items()}).items():
        own = compute_caption_metrics({k: captions[k] for k in keys}, {k: texts[k] for k in keys})
        figures[domain] = own["cider"]
    return figures


def _score_answers(rows: Rows) -> dict[str, float]:
    asked = [row for row in rows if row["answers"]]
    if not asked:
        return {}
    scores = [score_answer(row["ranked"], row["answers"]) for row in asked]
    figures = {"vqa_score": 100 * fmean(scores)}
    figures["generated"] = 100 * fmean(score_answer(row["generated"], row["answers"]) for row in asked)
    groups = sorted({row["group"] for row in asked} - {""})
    for group in groups:
        own = [score for row, score in zip(asked, scores, strict=True) if row["group"] == group]
        figures[group] = 100 * fmean(own)
    return figures


def _score_classes(rows: Rows) -> dict[str, float]:
    """Share of the images whose best class, or one of the best five, is right; "class_mean" is the mean over
    classes of the first share; "itc_" is without ITM."""
    if not rows:
        return {}

    def share(which: str, places: int) -> float:
        return 100 * fmean(not set(row["answers"]).isdisjoint(row[which][:places]) for row in rows)

    by_class: dict[str, list[bool]] = {}
    for row in rows:
        for label in row["answers"]:
            by_class.setdefault(label, []).append(row["ranked"][0] in row["answers"])
    figures = {"top1": share("ranked", 1), "top5": share("ranked", 5)}
    figures["class_mean"] = 100 * fmean(map(fmean, by_class.values()))
    if rows[0]["itc"] is not None:
        figures |= {"itc_top1": share("itc", 1), "itc_top5": share("itc", 5)}
    return figures


def _score_dialogs(rows: Rows) -> dict[str, float]:
    """MRR, recalls and mean rank of the questions whose answer is known, and NDCG of those with dense
    annotations."""
    ranks = [rank_answer(row["scores"], row["label"]) for row in rows if row["label"] != NO_LABEL]
    gains = [ndcg(row["scores"], row["relevance"]) for row in rows if row["relevance"]]
    known = [gain for gain in gains if gain is not None]
    figures = score_ranks(ranks) if ranks else {}
    return figures | ({"ndcg": 100 * fmean(known)} if known else {})


def _ranks_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The ranks of the candidates of a question, as the challenge takes them."""
    image, _, round_ = row["id"].rpartition("-")
    ranks = rank_candidates(row["scores"], [0.0] * len(row["scores"]))
    return {"image_id": _number(image), "round_id": int(round_), "ranks": ranks}


def _rename_recalls(found: Mapping[str, float]) -> dict[str, float]:
    """The figures of text-to-video retrieval, then those of video to text (`v2t_`) and by ITC alone
    (`itc_`)."""
    names = {"ir@": "r@", "ir_mdr": "mdr", "itc_ir@": "itc_r@", "tr@": "v2t_r@", "itc_tr@": "itc_v2t_r@"}
    return {
        new + name.removeprefix(old): value
        for old, new in names.items()
        for name, value in found.items()
        if name.startswith(old)
    }


def _score_video_answers(rows: Rows) -> dict[str, float]:
    """Accuracy of the generated answers, as the paper answers, of all questions and by kind; "ranked" of
    those that are ranked."""
    asked = [row for row in rows if row["answers"]]
    if not asked:
        return {}

    def accuracy(which: str, group: str | None = None) -> float:
        own = [row for row in asked if group is None or row["group"] == group]
        return 100 * fmean(normalize_answer(row[which]) == normalize_answer(row["answers"][0]) for row in own)

    figures = {"accuracy": accuracy("generated")}
    if all(row["ranked"] is not None for row in asked):
        figures["ranked"] = accuracy("ranked")
    return figures | {
        group: accuracy("generated", group) for group in sorted({row["group"] for row in asked} - {""})
    }


def _constant_scores(asked: Sequence[Sequence[str]]) -> dict[str, float]:
    """{answer: its mean score if it is given to every question} of the answers that annotators gave."""
    totals: dict[str, float] = {}
    for answers in asked:
        for answer in sorted({normalize_answer(each) for each in answers}):
            totals[answer] = totals.get(answer, 0.0) + score_answer(answer, answers)
    return {answer: total / len(asked) for answer, total in totals.items()}


def _is_right(row: Mapping[str, Any]) -> bool:
    return (row["probability"] >= 0.5) == (row["label"] == TRUE)


def _number(name: str) -> int | str:
    return int(name) if name.isdigit() else name
