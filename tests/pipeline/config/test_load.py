"""Config files and overrides: what is accepted, and the line that each mistake gives."""

from pathlib import Path

import pytest

from capfilt.pipeline.config.load import (
    ConfigError,
    apply_override,
    dump_config,
    load_config,
    parse_config,
    storage_options_in,
)
from capfilt.stages.storage.store import Store
from tests.tiny import tiny_data, write_config


def error_of(data):
    with pytest.raises(ConfigError) as error:
        parse_config(data, "c.yaml")
    return str(error.value)


def put(data, path, value):
    *parents, last = path.split(".")
    for name in parents:
        data = data.setdefault(name, {})
    data[last] = value


MISTAKES = [  # path, value, part of the error
    (
        "captioner.generate.sampling.topp",
        0.9,
        "captioner.generate.sampling.topp: unknown key; did you mean 'top_p'?",
    ),
    (
        "captioner.generate.sampling.top_p",
        1.5,
        "captioner.generate.sampling.top_p: input should be less than or equal to 1, got 1.5",
    ),
    ("run.ruonds", 2, "run.ruonds: unknown key; did you mean 'rounds'?"),
    ("pretrian", {}, "pretrian: unknown key; did you mean 'pretrain'?"),
    ("filter.threshold", 0.3, "filter.threshold: unknown key; did you mean filter.judge.threshold?"),
    ("sources.web.url_column", "u", "unknown key; did you mean sources.web.rows.url_column?"),
    ("captioner.top_p", 0.9, "unknown key; did you mean captioner.generate.sampling.top_p?"),
    ("grace_seconds", 3, "grace_seconds: unknown key; did you mean run.grace_seconds?"),
    ("report.max_failed_fraction", 1, "unknown key; did you mean run.max_failed_fraction?"),
    ("report.xyz", 1, "report.xyz: unknown key; allowed: examples"),
    (
        "sources.web.rows.url_colum",
        "u",
        "sources.web.rows.url_colum: unknown key; did you mean 'url_column'?",
    ),
    ("sources.web.kind", "wild", "sources.web.kind: input should be 'human', 'web' or 'test', got 'wild'"),
    ("pretrain.batch_size", "many", "pretrain.batch_size: input should be a valid integer"),
    ("pretrain.epochs", 3, "pretrain: give either epochs or steps"),
    (
        "model.med.parts",
        "vqa",
        'model: parts "vqa" exists only after finetuning; remove the key, because this model is pretrained',
    ),
    ("model.med.vision.depht", 2, "model.med.vision.depht: unknown key; did you mean 'depth'?"),
    (
        "filter.judge.threshold",
        -1,
        "filter.judge.threshold: input should be greater than or equal to 0, got -1",
    ),
    ("fetch.image.min_side", 0, "fetch.image.min_side: input should be greater than or equal to 1, got 0"),
    (
        "pretrain.workers.workers",
        3,
        "batch_size 8 cannot be divided among 3 workers x 1 pieces (accumulate); allowed: multiples of 3",
    ),
    (
        "captioner.finetune",
        None,
        "captioner: give captioner.checkpoint, or both pretrain and captioner.finetune to train one",
    ),
    ("sources.web.images", "x", "images and serve are given, but relative urls belong to one place"),
    (
        "sources.human.parts",
        2,
        "sources.human: parts is 2, but only a source of kind web can be read in parts; remove the key",
    ),
    ("sources.web.parts", 0, "sources.web.parts: input should be greater than or equal to 1, got 0"),
    (
        "captioner.finetune.sources",
        ["web"],
        "captioner.finetune.sources: 'web' is not a source of kind human; allowed: human",
    ),
    (
        "pretrain.sources",
        ["human", "wbe"],
        "pretrain.sources: 'wbe' is not a source of kind human or web; allowed: human, web",
    ),
    ("pretrain.sources", [], "pretrain.sources: the list is empty; allowed: human, web"),
    (
        "filter.finetune.checkpoint_layers",
        2,
        "filter.finetune.checkpoint_layers: 2 exceeds model.med.vision.depth 1",
    ),
]


@pytest.mark.parametrize(("path", "value", "message"), MISTAKES)
def test_mistake_is_one_line_with_path_value_and_advice(tmp_path, path, value, message):
    data = tiny_data(tmp_path)
    put(data, path, value)
    text = error_of(data)
    assert text.startswith("c.yaml: ") and message in text and "\n" not in text


def test_as_many_recomputing_blocks_as_the_model_has_are_allowed(tmp_path):
    data = tiny_data(tmp_path)
    put(data, "filter.finetune.checkpoint_layers", 1)
    assert parse_config(data, "c").filter.finetune.checkpoint_layers == 1


def test_parts_of_a_source_that_no_pretraining_reads_are_refused(tmp_path):
    data = tiny_data(tmp_path)
    put(data, "sources.web.parts", 2)
    assert parse_config(data, "c").sources["web"].parts == 2
    put(data, "pretrain.sources", ["human"])
    assert "sources.web.parts: no pretraining reads this source; remove the key" in error_of(data)


def test_second_round_needs_trainings_also_with_given_checkpoints(tmp_path):
    data = tiny_data(tmp_path, rounds=2)
    put(data, "captioner", {"checkpoint": "x"})
    assert "captioner.finetune to train one (rounds after the first always train)" in error_of(data)
    data["run"]["rounds"] = 1
    assert parse_config(data, "c").captioner.checkpoint == "x"


def test_missing_key_is_named(tmp_path):
    data = tiny_data(tmp_path)
    del data["run"]["dir"]
    assert error_of(data) == "c.yaml: run.dir: missing; this key must be given"


def test_every_mistake_is_reported(tmp_path):
    data = tiny_data(tmp_path)
    put(data, "run.sed", 1)
    put(data, "filter.judge.threshold", 7)
    assert len(error_of(data).splitlines()) == 2


def test_numbers_that_yaml_reads_as_text_are_accepted(tmp_path):
    data = tiny_data(tmp_path)
    put(data, "pretrain.optimizer.lr", "1e-3")
    assert parse_config(data, "c").pretrain.optimizer.lr == 1e-3


def test_overrides_reach_nested_keys_and_are_checked(tmp_path):
    path = write_config(tmp_path / "c.yaml", tiny_data(tmp_path))
    config = load_config(path, ["captioner.generate.sampling.top_p=0.5", "run.name=other"])
    assert config.captioner.generate.sampling.top_p == 0.5 and config.run.name == "other"
    for override in ("run.seed", "=1"):
        with pytest.raises(ConfigError, match=f"--set {override}: write it as key.path=value"):
            load_config(path, [override])
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        load_config(path, ["run.sede=3"])


OVERRIDES = [  # path, text, value
    # A string takes the text unchanged.
    ("run.dir", "/x/run #2", "/x/run #2"),
    ("run.dir", "#2", "#2"),
    ("run.dir", "null", "null"),
    ("run.dir", "true", "true"),
    ("run.dir", "", ""),
    ("run.dir", "[a]", "[a]"),
    ("run.dir", "a: b", "a: b"),
    ("run.name", "007", "007"),
    ("captioner.generate.prompt", "a picture of ", "a picture of "),
    ("captioner.generate.prompt", "", ""),
    ("sources.web.rows.format", "csv", "csv"),
    # So does one that may be null, except for the texts that mean null in YAML.
    ("sources.web.base_url", "https://host/#x", "https://host/#x"),
    ("captioner.checkpoint", "models/a #1", "models/a #1"),
    ("captioner.checkpoint", "#1", "#1"),
    ("captioner.checkpoint", "true", "true"),
    ("captioner.checkpoint", "nullable", "nullable"),
    ("captioner.checkpoint", "null", None),
    ("captioner.checkpoint", "~", None),
    ("captioner.checkpoint", "", None),
    # One that may be a list is YAML in brackets.
    ("sources.web.rows.manifest", "a #1.csv", "a #1.csv"),
    ("sources.web.rows.manifest", "[a, b] # two", ["a", "b"]),
    # Everything else is YAML.
    ("sources.web.rows.columns", "[caption, url] # two", ["caption", "url"]),
    ("fetch.optout", "[]", []),
    ("pretrain.sources", "null", None),
    ("run.seed", "1 # one", 1),
    ("run.seed", "", None),
    ("fetch.robots", "false", False),
    ("fetch.per_host_per_second", "null", None),
    ("pretrain", "null", None),
    ("report", "{examples: 3}", {"examples": 3}),
    ("run.storage_options.anon", "true", True),
    ("run.storage_options", "{anon: true}", {"anon": True}),
    ("run.unknown", "true", True),
]


@pytest.mark.parametrize(("path", "text", "value"), OVERRIDES)
def test_type_of_a_key_decides_how_an_override_is_read(path, text, value):
    data = {}
    apply_override(data, f"{path}={text}")
    for name in path.split("."):
        data = data[name]
    assert data == value and type(data) is type(value)


def test_override_replaces_the_value_of_the_file(tmp_path):
    path = write_config(tmp_path / "c.yaml", tiny_data(tmp_path))
    config = load_config(
        path, ["run.dir=/x/run #2", "run.name=a", "run.name=b=c", "sources.web.fetch.contact=me"]
    )
    assert (config.run.dir, config.run.name) == ("/x/run #2", "b=c")
    assert config.sources["web"].fetch.contact == "me"


def test_storage_options_of_overrides_are_known_before_the_config():
    overrides = ["run.seed=1", "run.storage_options.anon=true", "run.storage_options.profile=me"]
    assert storage_options_in(overrides) == {"anon": True, "profile": "me"}
    assert storage_options_in(["run.seed=1"]) == storage_options_in([]) == {}


def test_resolved_config_loads_as_itself(tmp_path):
    config = parse_config(tiny_data(tmp_path), "c")
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("text", "message"), [("a: [1", "not YAML"), ("- 1", "a config is a mapping"), ("", "not empty")]
)
def test_files_without_a_config(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(PermissionError(13, "Permission denied"), "Permission denied"), (OSError("odd"), "odd")],
)
def test_file_that_cannot_be_read_is_one_line(tmp_path, monkeypatch, error, reason):
    def read(store, name):
        raise error

    monkeypatch.setattr(Store, "read", read)
    with pytest.raises(ConfigError) as raised:
        load_config(tmp_path / "c.yaml")
    assert str(raised.value) == f"{tmp_path / 'c.yaml'}: cannot read it ({reason})"


def test_missing_file_lists_the_shipped_configs():
    with pytest.raises(
        ConfigError, match=r"nothing.yaml: no such config file; shipped configs: .*configs/quickstart.yaml"
    ):
        load_config("nothing.yaml")


def test_shipped_configs_are_found_from_any_folder(monkeypatch, tmp_path):
    expected = load_config("configs/quickstart.yaml")
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/quickstart.yaml") == expected
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/quickstart.yaml").write_text(
        "run: {seed: x}"
    )  # a file in the working directory wins
    with pytest.raises(ConfigError, match=r"run\.seed"):
        load_config("configs/quickstart.yaml")


@pytest.mark.parametrize("name", ["", "file.yaml/config.yaml"])
def test_path_that_is_no_file_is_one_line(tmp_path, name):
    (tmp_path / "file.yaml").write_text("run: {}")
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / name)


def test_every_shipped_config_is_valid():
    configs = sorted(Path("configs").rglob("*.yaml"))
    assert len(configs) >= 3
    for path in configs:
        load_config(path)
