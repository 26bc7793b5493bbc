import pytest

from capfilt.pipeline.config.load import ConfigError, dump_config, load_config, parse_config
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


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
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
        (
            "sources.web.rows.url_colum",
            "u",
            "sources.web.rows.url_colum: unknown key; did you mean 'url_column'?",
        ),
        (
            "sources.web.kind",
            "wild",
            "sources.web.kind: input should be 'human', 'web' or 'test', got 'wild'",
        ),
        ("pretrain.batch_size", "many", "pretrain.batch_size: input should be a valid integer"),
        ("pretrain.epochs", 3, "pretrain: give either epochs or steps"),
        ("model.med.parts", "vqa", 'model: parts "vqa" is made by finetuning alone; leave parts out'),
        ("model.med.vision.depht", 2, "model.med.vision.depht: unknown key; did you mean 'depth'?"),
        (
            "filter.judge.threshold",
            -1,
            "filter.judge.threshold: input should be greater than or equal to 0, got -1",
        ),
        (
            "fetch.image.min_side",
            0,
            "fetch.image.min_side: input should be greater than or equal to 1, got 0",
        ),
        ("pretrain.workers.workers", 3, "batch_size 8 does not divide among 3 workers"),
        (
            "captioner.finetune",
            None,
            "captioner: give captioner.checkpoint, or both pretrain and captioner.finetune",
        ),
        ("sources.web.images", "x", "images and serve given"),
        (
            "sources.human.parts",
            2,
            "sources.human: parts is 2, but only a source of kind web trains in parts",
        ),
        ("sources.web.parts", 0, "sources.web.parts: input should be greater than or equal to 1, got 0"),
        (
            "captioner.finetune.sources",
            ["web"],
            "captioner.finetune.sources: 'web' is no source of kind human; allowed: human",
        ),
        (
            "pretrain.sources",
            ["human", "wbe"],
            "pretrain.sources: 'wbe' is no source of kind human or web; allowed: human, web",
        ),
        ("pretrain.sources", [], "pretrain.sources: names none; allowed: human, web"),
        (
            "filter.finetune.checkpoint_layers",
            2,
            "filter.finetune.checkpoint_layers: 2 exceed model.med.vision.depth 1; at most all",
        ),
    ],
)
def test_a_mistake_is_one_line_with_path_value_and_way_out(tmp_path, path, value, message):
    data = tiny_data(tmp_path)
    put(data, path, value)
    text = error_of(data)
    assert message in text and "\n" not in text


def test_parts_that_no_pretraining_reads_are_refused(tmp_path):
    data = tiny_data(tmp_path)
    put(data, "sources.web.parts", 2)
    put(data, "pretrain.sources", ["human"])
    assert "sources.web.parts: no pretraining reads this source; remove the key" in error_of(data)


def test_every_mistake_is_told_at_once(tmp_path):
    data = tiny_data(tmp_path)
    put(data, "run.sed", 1)
    put(data, "filter.judge.threshold", 7)
    assert len(error_of(data).splitlines()) == 2


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    data = tiny_data(tmp_path)
    put(data, "pretrain.optimizer.lr", "1e-3")
    assert parse_config(data, "c").pretrain.optimizer.lr == 1e-3


def test_overrides_reach_nested_keys_and_are_checked(tmp_path):
    path = write_config(tmp_path / "c.yaml", tiny_data(tmp_path))
    config = load_config(path, ["captioner.generate.sampling.top_p=0.5", "run.name=other"])
    assert config.captioner.generate.sampling.top_p == 0.5 and config.run.name == "other"
    with pytest.raises(ConfigError, match=r"--set run.seed: write it as key.path=value"):
        load_config(path, ["run.seed"])
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        load_config(path, ["run.sede=3"])


def test_resolved_config_reads_back_as_itself(tmp_path):
    config = parse_config(tiny_data(tmp_path), "c")
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("text", "message"), [("a: [1", "not YAML"), ("- 1", "a config is a mapping"), ("", "not empty")]
)
def test_files_that_are_no_config(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_missing_file_names_the_shipped_ones(monkeypatch, tmp_path):
    with pytest.raises(
        ConfigError, match=r"nothing.yaml: no such config file; shipped configs: .*quickstart.yaml"
    ):
        load_config("nothing.yaml")


def test_shipped_ones_are_found_from_anywhere(monkeypatch, tmp_path):
    expected = load_config("configs/quickstart.yaml")
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/quickstart.yaml") == expected
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/quickstart.yaml").write_text("run: {seed: x}")  # one's own goes first
    with pytest.raises(ConfigError, match=r"run\.seed"):
        load_config("configs/quickstart.yaml")


@pytest.mark.parametrize("name", ["", "file.yaml/config.yaml"])
def test_what_is_no_file_is_one_line(tmp_path, name):
    (tmp_path / "file.yaml").write_text("run: {}")
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / name)


def test_every_shipped_config_is_valid():
    from pathlib import Path

    configs = sorted(Path("configs").rglob("*.yaml"))
    assert len(configs) >= 3
    for path in configs:
        load_config(path)
