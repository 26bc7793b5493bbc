"""The weights of `pretrain.texts` in an export: a column, or the probabilities of open_clip's options."""

import shlex
from collections import Counter

import pandas as pd
import pytest

from capfilt.pipeline.export.commands import next_commands
from capfilt.stages.errors import UserError
from tests.pipeline.export.exported_run import by_image, export, kept_pairs, make_run
from tests.tiny import tiny_data

WEIGHTS = {"human": 2, "web": 0.25, "synthetic": 0.75}


def run_with(folder, **texts):
    return make_run(folder, pretrain=tiny_data(folder)["pretrain"] | {"texts": texts})


def expected_weights(run_dir, per_image):
    """{(source, key): weights of its texts}, by hand from DuckDB's rows."""
    found = {}
    for image, pairs in by_image(kept_pairs(run_dir.store.url)).items():
        counts = Counter(pair["origin"] for pair in pairs)
        total = sum(WEIGHTS[origin] for origin in counts if origin != "human") or 1
        found[image] = [
            WEIGHTS[p["origin"]] / total / counts[p["origin"]] if per_image == "one" else WEIGHTS[p["origin"]]
            for p in pairs
        ]
    return found


def probabilities(done):
    words = shlex.split(dict(next_commands(done.plan.config.out, done.summary))["all texts"])
    keys = words[words.index("--json-text-key") + 1].split(";")
    first = words.index("--json-text-key-probs") + 1
    return dict(zip(keys, map(float, words[first : first + len(keys)]), strict=True))


@pytest.mark.parametrize("per_image", ["one", "all"])
def test_every_form_with_a_place_for_them_has_the_weights(tmp_path, per_image):
    run_dir = run_with(tmp_path, per_image=per_image, **WEIGHTS)
    expected = expected_weights(run_dir, per_image)
    export(run_dir, tmp_path / "parquet", "parquet", human=True)
    table = pd.read_parquet(tmp_path / "parquet/data")
    rows = table.groupby(["source", "key"], sort=False)["text_weight"].agg(list).to_dict()
    assert {image: pytest.approx(weights) for image, weights in expected.items()} == rows
    export(run_dir, tmp_path / "hf", "hf", human=True)
    table = pd.read_parquet(tmp_path / "hf/data")
    rows = {(r["source"], r["key"]): list(r["text_weights"]) for r in table.to_dict("records")}
    assert {image: pytest.approx(weights) for image, weights in expected.items()} == rows
    if per_image == "one":
        sums = table.groupby("source")["text_weights"].agg(
            lambda lists: {round(sum(each), 9) for each in lists}
        )
        assert sums.to_dict() == {"web": {1.0}, "more": {1.0}, "human": {2.0}}


def test_open_clip_draws_by_the_same_weights(tmp_path):
    one = export(
        run_with(tmp_path / "a", per_image="one", **WEIGHTS), tmp_path / "one", "open_clip", human=True
    )
    assert one.summary.most == {"human": 2, "synthetic": 2, "web": 2}
    shares = {"human": 0.5, "web": 0.125, "synthetic": 0.375}
    assert probabilities(one) == {f"{o}_{n}": share for o, share in shares.items() for n in range(2)}
    every = export(run_with(tmp_path / "b", **WEIGHTS), tmp_path / "all", "open_clip", human=True)
    weights = WEIGHTS | {"human": 1}
    assert probabilities(every) == {f"{o}_{n}": weight for o, weight in weights.items() for n in range(2)}
    plain = export(run_with(tmp_path / "c"), tmp_path / "plain", "open_clip")
    assert set(probabilities(plain).values()) == {1}


def test_equal_weights_change_no_export_and_others_are_another_export(tmp_path):
    plain = export(make_run(tmp_path / "a"), tmp_path / "x", "parquet")
    assert "texts" not in plain.summary.inputs
    assert "text_weight" not in pd.read_parquet(tmp_path / "x/data").columns
    assert export(run_with(tmp_path / "b", sentences="sample"), tmp_path / "x", "parquet").before == "done"
    weighed = run_with(tmp_path / "c", per_image="one", **WEIGHTS)
    with pytest.raises(UserError, match="holds another export"):
        export(weighed, tmp_path / "x", "parquet")
    assert "texts" not in export(weighed, tmp_path / "list", "blip-json").summary.inputs, "no place for them"


def test_a_column_of_the_user_with_this_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("capfilt.pipeline.export.plan.WEIGHT", "similarity")
    with pytest.raises(
        UserError, match=r"your rows have a column similarity, .* \(datacomp-uids, blip-json\)"
    ):
        export(run_with(tmp_path, per_image="one", **WEIGHTS), tmp_path / "out", "parquet")
    assert not (tmp_path / "out").exists()
