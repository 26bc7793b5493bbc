"""The closing block of a command, as printed."""

import io
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from capfilt.pipeline.console.summary import load_last_metrics, print_fields, print_summary, summary_block
from capfilt.pipeline.report.metrics_file import RoundMetrics, write_metrics
from capfilt.stages.storage.store import Store

METRICS: dict[str, Any] = {
    "round": 2,
    "counts": {"http_404": 30, "success": 1200, "timeout": 70},
    "noise_ratio": {"synthetic": 0.25, "web": 0.5512},
    "noise_ratio_by_source": {},
    "planted_noise": 0.55,
    "filter": {"auc": 0.91, "precision": None, "recall": 0.5},
    "retrieval": {
        "pretrain.10": {"itc_tr@1": 82.5, "itc_ir@1": 80.0, "tr@1": 60.0},
        "pretrain.2": {"itc_tr@1": 75.0, "itc_ir@1": 70.0, "tr@1": 40.0},
        "pretrain.0": {"itc_tr@1": 69.25, "itc_ir@1": 81.0, "tr@1": 14.0},
    },
    "caption": {"pretrain.0": {"cider": 30.0}},
    "seconds": {},
}
COMMAND = "capfilt run 'runs/a b/[bold]config.yaml' " + "--set some.long.key=value " * 8


def shown(metrics: dict[str, Any] | None, width: int = 80) -> list[str]:
    console = Console(width=width, record=True, force_terminal=False, file=io.StringIO())
    round_metrics = None if metrics is None else RoundMetrics.model_validate(metrics)
    block = summary_block(round_metrics, [("report", "/x/[red]report.html")], COMMAND, "continue")
    console.print(block, soft_wrap=True)
    return console.export_text().splitlines()


def words(lines: list[str], start: str) -> list[str]:
    return next(line for line in lines if line.strip().startswith(start)).split()


def test_noise_ratio_is_beside_the_planted_one() -> None:
    lines = shown(METRICS)
    assert " ".join(words(lines, "rows")) == "rows 1,300 = 1,200 success, 70 timeout, 30 http_404"
    assert (
        " ".join(words(lines, "noise ratio")) == "noise ratio web 0.5512 (planted 0.5500); synthetic 0.2500"
    )
    assert " ".join(words(lines, "filter")).startswith("filter AUC 0.9100, precision -, recall 0.5000")


def test_efficiency_is_shown_of_the_stages_that_have_one() -> None:
    measured = {"efficiency": 0.93456, "model_images_per_second": 41.26}
    common = {"kind": "candidates", "shards": 9, "images": 90, "seconds": 5.0}
    stages = [
        {"stage": "read", **common},
        *({"stage": s, **common, **measured} for s in ("caption", "filter")),
    ]
    alone = "models alone: caption 41.3, filter 41.3 images/s"
    found = " ".join(words(shown(METRICS | {"stages": stages}), "efficiency"))
    assert found == f"efficiency caption 0.9346, filter 0.9346 ({alone})"
    assert not [line for line in shown(METRICS | {"stages": stages[:1]}) if "efficiency" in line]


def test_last_model_is_compared_with_the_first() -> None:
    lines = shown(METRICS)
    models = [line.split() for line in lines if line.strip().startswith("pretrain")]
    assert models[:3] == [
        ["pretrain.0", "69.2", "81.0", "14.0"],
        ["pretrain.2", "75.0", "70.0", "40.0"],
        ["pretrain.10", "82.5", "80.0", "60.0"],
    ]
    assert words(lines, "gain") == ["gain", "+13.2", "-1.0", "+46.0"]


def test_single_model_has_no_gain() -> None:
    one = METRICS | {"retrieval": {"pretrain.0": METRICS["retrieval"]["pretrain.0"]}}
    lines = shown(one)
    assert words(lines, "pretrain.0") == ["pretrain.0", "69.2", "81.0", "14.0"]
    assert not [line for line in lines if line.strip().startswith("gain")]


def test_last_line_is_the_command_unwrapped_and_without_markup() -> None:
    for metrics in (METRICS, None):
        lines = shown(metrics)
        assert lines[-1].rstrip() == f"continue      {COMMAND}".rstrip()
        assert lines[-2].split() == ["report", "/x/[red]report.html"]


def test_run_without_verdicts_says_so() -> None:
    bare = {"round": 1, "counts": {}, "noise_ratio": {}, "planted_noise": None, "filter": None}
    lines = shown(bare)
    assert words(lines, "rows") == ["rows", "none"]
    assert "nothing was judged" in " ".join(lines)


def config_of(folder: str, rounds: int = 3) -> Any:
    """The parts of a config that the closing block needs."""
    return SimpleNamespace(run=SimpleNamespace(dir=folder, rounds=rounds, storage_options={}))


def test_last_metrics_are_those_of_the_last_round_that_has_a_report(tmp_path) -> None:
    config = config_of(str(tmp_path))
    assert load_last_metrics(config) is None
    for number in (1, 2, 4):
        write_metrics(Store(str(tmp_path)), RoundMetrics(round=number))
    metrics = load_last_metrics(config)
    assert metrics is not None and metrics.round == 2


def test_damaged_metrics_are_reported_and_left_out(tmp_path, caplog) -> None:
    Store(str(tmp_path)).put("reports/1/metrics.json", b"{")
    assert load_last_metrics(config_of(str(tmp_path), rounds=1)) is None
    assert "reports/1/metrics.json: not a metrics file" in caplog.text


def test_last_metrics_of_a_store_that_cannot_be_reached_are_none(monkeypatch) -> None:
    from capfilt.stages.storage.store import StoreError

    def find(self: Store, name: str) -> None:
        raise StoreError("no such bucket")

    monkeypatch.setattr(Store, "find", find)
    assert load_last_metrics(config_of("/x")) is None


def printed(print_: Any, *arguments: Any) -> list[str]:
    text = io.StringIO()
    print_(Console(file=text, width=40), *arguments)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_summary_names_the_files_of_the_last_round() -> None:
    lines = printed(
        print_summary,
        config_of("runs/x/"),
        RoundMetrics.model_validate(METRICS),
        "again",
        "capfilt run x.yaml",
    )
    assert lines[-5:] == [
        "run           runs/x",
        "candidates    runs/x/rounds/2/",
        "report        runs/x/reports/2/report.html",
        "metrics       runs/x/reports/2/metrics.json",
        "again         capfilt run x.yaml",
    ]
    assert printed(print_summary, config_of("runs/x"), None, "resume", "capfilt run x.yaml") == [
        "",
        "run           runs/x",
        "resume        capfilt run x.yaml",
    ]


def test_fields_are_not_wrapped_and_have_no_markup() -> None:
    value = "[red]" + "a long path " * 10 + "[/x]"
    assert printed(print_fields, [("a", value), ("trained before", "b")]) == [
        f"a              {value}",
        "trained before b",
    ]
    assert printed(print_fields, [("a", "b")]) == ["a             b"]
    assert printed(print_fields, []) == []


def test_scores_of_each_test_source_follow_with_controls_between_first_and_last_model() -> None:
    by_source = {
        "rare": {
            "pretrain.1": {"itc_tr@1": 50.0, "tr@1": 1.0},
            "human_only": {"itc_tr@1": 10.0, "tr@1": 2.0},
            "pretrain.0": {"itc_tr@1": 40.0, "tr@1": 3.0},
        }
    }
    captions = {"rare": {"pretrain.1": {"cider": 300.0}, "pretrain.0": {"cider": 200.0}}}
    lines = shown(METRICS | {"retrieval_by_source": by_source, "caption_by_source": captions})
    first = next(i for i, line in enumerate(lines) if "on test source rare" in line)
    assert [line.split() for line in lines[first + 1 : first + 6]] == [
        ["model", "itc", "tr@1", "cider"],
        ["pretrain.0", "40.0", "200.0"],
        ["human_only", "10.0", "-"],
        ["pretrain.1", "50.0", "300.0"],
        ["gain", "+10.0", "+100.0"],
    ]
