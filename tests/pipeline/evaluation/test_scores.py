"""Order, best values and gains in the table of scores."""

import pytest

from capfilt.pipeline.evaluation.scores import build_score_table, model_sort_key, score_gains


def test_columns_are_in_the_order_of_papers_with_k_as_a_number() -> None:
    retrieval = ("ir@10", "ir@5", "itc_ir@1", "tr@1", "itc_tr@10", "tr@10", "itc_tr@5", "tr@5")
    names = (*retrieval, "spice", "bleu@4", "cider")
    table = build_score_table({"pretrain.0": dict.fromkeys(names, 0.5)})
    assert table is not None and table.columns == [
        "itc_tr@5", "itc_tr@10", "itc_ir@1", "tr@1", "tr@5", "tr@10", "ir@5", "ir@10",
        "cider", "bleu@4", "spice",
    ]  # fmt: skip


def test_models_are_in_the_order_of_rounds() -> None:
    models = ["pretrain.10", "human_only", "pretrain.2", "filter_only", "pretrain.0"]
    ordered = ["pretrain.0", "filter_only", "human_only", "pretrain.2", "pretrain.10"]
    assert sorted(models, key=model_sort_key) == ordered


def test_gains_are_those_of_the_last_model_over_the_first() -> None:
    scores = {
        "pretrain.10": {"tr@1": 50.0, "ir@1": 20.0},
        "pretrain.2": {"tr@1": 60.0, "ir@1": 40.0},
        "pretrain.0": {"tr@1": 45.5, "cider": 3.0},
    }
    table = build_score_table(scores)
    assert table is not None
    assert (table.first_model, table.last_model) == ("pretrain.0", "pretrain.10")
    assert table.gains == {"tr@1": pytest.approx(4.5)}
    assert table.best == {"tr@1": 60.0, "ir@1": 40.0, "cider": 3.0}
    assert [model for model, _ in table.rows] == ["pretrain.0", "pretrain.2", "pretrain.10"]


def test_single_model_has_no_gains_and_no_model_no_table() -> None:
    table = build_score_table({"pretrain.0": {"tr@1": 1.0}})
    assert table is not None and table.gains == {}
    assert build_score_table({}) is None
    assert score_gains({"a": 1.0}, {"b": 2.0}) == {}
