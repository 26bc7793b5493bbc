"""The shipped recipes have the values of the paper (arXiv 2201.12086) and of its code (salesforce/BLIP)."""

import json
from dataclasses import replace
from operator import attrgetter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch

from capfilt.models.config import AugmentConfig, ObjectiveConfig, OptimizerConfig
from capfilt.models.network.med import MED
from capfilt.models.network.vit import build_vit
from capfilt.models.training.optimizer import learning_rate
from capfilt.stages.manifest.index import build_index, read_shard
from capfilt.stages.storage.store import Store
from tests.recipes import RECIPES, recipe

BASE, LARGE, CODE = ("vit-b-14m", "vit-b-129m"), ("vit-l-129m",), ("reference-14m",)

# (recipes, section of the recipe, {key: value}, source of the value)
VALUES = [
    (RECIPES, "pretrain", {"epochs": 20, "image_size": 224}, "section 4.1"),
    (BASE, "pretrain", {"batch_size": 2880, "optimizer.lr": 3e-4}, "section 4.1"),
    (LARGE, "pretrain", {"batch_size": 2400, "optimizer.lr": 2e-4}, "section 4.1"),
    (BASE + LARGE, "pretrain.optimizer", {"weight_decay": 0.05, "decay_rate": 0.85}, "section 4.1"),
    (CODE, "pretrain", {"batch_size": 8 * 75, "optimizer.lr": 3e-4}, "code: configs/pretrain.yaml, 8 GPUs"),
    (CODE, "pretrain.optimizer", {"weight_decay": 0.05, "decay_rate": 0.9}, "code: configs/pretrain.yaml"),
    (
        RECIPES,
        "pretrain.optimizer",
        {"warmup_steps": 3000, "warmup_lr": 1e-6, "min_lr": 1e-6, "schedule": "exponential"},
        "code: configs/pretrain.yaml",
    ),
    (RECIPES, "pretrain.optimizer", {"decay_every": "epoch", "betas": (0.9, 0.999)}, "code: utils.py"),
    (RECIPES, "pretrain.objective", {"losses": ("itc", "itm", "lm"), "prompt": ""}, "section 3.2"),
    (RECIPES, "pretrain.objective", {"queue_size": 57600, "alpha": 0.4}, "code: configs/pretrain.yaml"),
    (RECIPES, "pretrain.objective", {"momentum": 0.995, "max_tokens": 30, "alpha_ramp_epochs": 2}, "code"),
    (RECIPES, "pretrain.objective", {"label_smoothing": 0.1}, "section 3.2"),
    (RECIPES, "pretrain.augment", {"min_scale": 0.2, "operations": 2, "magnitude": 5.0}, "code: data/"),
    (RECIPES, "captioner.finetune", {"epochs": 5, "batch_size": 256}, "table 14"),
    (RECIPES, "filter.finetune", {"epochs": 6, "batch_size": 256}, "table 14"),
    (BASE + CODE, "captioner.finetune.optimizer", {"lr": 1e-5}, "table 14"),
    (LARGE, "captioner.finetune.optimizer", {"lr": 2e-6}, "table 14"),
    (BASE + CODE, "filter.finetune.optimizer", {"lr": 1e-5}, "table 14"),
    (LARGE, "filter.finetune.optimizer", {"lr": 5e-6}, "table 14"),
    (RECIPES, "captioner.finetune.objective", {"losses": ("lm",)}, "section 3.3"),
    (RECIPES, "captioner.finetune.objective", {"prompt": "a picture of ", "max_tokens": 40}, "code"),
    (RECIPES, "filter.finetune.objective", {"losses": ("itc", "itm")}, "section 3.3"),
    (
        RECIPES,
        "filter.finetune.objective",
        {"queue_size": 57600, "alpha": 0.4, "momentum": 0.995, "alpha_ramp_epochs": 1, "max_tokens": 35},
        "code: configs/retrieval_coco.yaml",
    ),
    (RECIPES, "filter.finetune.objective", {"negative_all_rank": True}, "code: configs/retrieval_coco.yaml"),
    (BASE + CODE, "filter.finetune", {"checkpoint_layers": 4}, "code: configs/retrieval_coco.yaml"),
    (LARGE, "filter.finetune", {"checkpoint_layers": 12}, "code: configs/retrieval_coco.yaml"),
    (LARGE, "captioner.finetune", {"checkpoint_layers": 5}, "code: configs/caption_coco.yaml"),
    (
        RECIPES,
        "captioner.generate",
        {"captions_per_image": 1, "prompt": "a picture of "},
        "section 3.3; code",
    ),
    (RECIPES, "captioner.generate.sampling", {"strategy": "nucleus", "top_p": 0.9}, "section 4.3"),
    (BASE + LARGE, "captioner.generate.sampling", {"top_k": 0, "repetition_penalty": 1.0}, "section 4.3"),
    (CODE, "captioner.generate.sampling", {"top_k": 50, "repetition_penalty": 1.1}, "code: models/blip.py"),
    (RECIPES, "filter.judge", {"threshold": 0.5, "itm_token": "enc"}, "section 3.3"),
    (RECIPES, "evaluate", {"k": 256, "caption.sampling.num_beams": 3}, "code; appendix A"),
    (BASE + CODE, "model.med.vision", {"width": 768, "depth": 12, "heads": 12, "drop_path": 0.0}, "ViT-B/16"),
    (
        LARGE,
        "model.med.vision",
        {"width": 1024, "depth": 24, "heads": 16, "drop_path": 0.1},
        "ViT-L/16; code",
    ),
    (
        RECIPES,
        "model.med",
        {"vision.patch_size": 16, "embed_dim": 256, "sharing": "all_but_sa"},
        "section 3.2",
    ),
]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_has_the_values_of_the_paper(name):
    config = recipe(name)
    wrong = [
        f"{section}.{key} is {found}, {where}: {value}"
        for names, section, values, where in VALUES
        if name in names
        for key, value in values.items()
        if (found := attrgetter(f"{section}.{key}")(config)) != value
    ]
    assert wrong == []


@pytest.mark.parametrize("name", RECIPES)
def test_both_finetunings_use_coco_at_384_pixels_a_cosine_schedule_and_larger_crops(name):
    config = recipe(name)
    for kind, section in (("captioner", config.captioner.finetune), ("filter", config.filter.finetune)):
        assert config.trains_on(kind) == ["coco"]  # section 3.3
        assert section.image_size == 384  # section 4.1
        rate = section.optimizer
        # Appendix A: AdamW, weight decay 0.05, cosine. The code: no warm-up, down to 0, once per epoch.
        assert (rate.weight_decay, rate.schedule, rate.warmup_steps, rate.min_lr) == (0.05, "cosine", 0, 0)
        assert rate.decay_every == "epoch"
        assert section.augment == AugmentConfig(min_scale=0.5)  # the code's data/__init__.py


@pytest.mark.parametrize("name", RECIPES)
def test_sources_are_those_of_table_15_and_no_human_image_is_too_small(name):
    config = recipe(name)
    web = ["cc3m", "cc12m", "sbu"] + (["laion"] if "129m" in name else [])
    assert config.of_kind("human") == ["coco", "vg"] and config.of_kind("web") == web
    assert config.trains_on("pretrain") == ["coco", "vg", *web]
    for source in config.of_kind("human", "test"):
        assert config.sources[source].fetch.image.min_side == 1
    parts = {source: section.parts for source, section in config.sources.items() if section.parts > 1}
    if "129m" in name:  # footnote 1: a fifth per epoch; shorter edge larger than 256 pixels
        assert parts == {"laion": 5} and config.sources["laion"].fetch.image.min_side == 257
        assert config.run.rounds == 1 and config.pretrain.epochs % 5 == 0, "every part is read equally often"
    else:
        assert parts == {}


def test_reference_recipe_equals_the_reference_presets():
    config = recipe("reference-14m")
    assert config.pretrain.objective == ObjectiveConfig.reference()
    assert config.pretrain.optimizer == OptimizerConfig.reference()
    # The code's finetuning of the filter uses image ids (models/blip_retrieval.py: idx_queue) and no floor.
    assert config.filter.finetune.objective == ObjectiveConfig.reference(
        losses=("itc", "itm"),
        positives="ids",
        negative_floor=0.0,
        alpha_ramp_epochs=1,
        negative_all_rank=True,
        max_tokens=35,
    )
    assert config.captioner.finetune.optimizer == OptimizerConfig.reference(
        lr=1e-5, schedule="cosine", warmup_steps=0, min_lr=0.0
    )


# Steps per epoch from the texts of table 15: 15.2 M / 2,880 (600 in the code), + 115 M / 5 of LAION, / 2,400
# for ViT-L; COCO's 567 k / 256. Rates at the first step, in mid warm-up, at its end, after 1 and after 10
# epochs.
PRETRAINING = {
    "vit-b-14m": (5276, 1e-6, 1.505e-4, 3e-4, 2.55e-4, 5.90623e-5),  # 0.85 ** 10 = 0.1968744
    "vit-b-129m": (13262, 1e-6, 1.505e-4, 3e-4, 2.55e-4, 5.90623e-5),
    "vit-l-129m": (15915, 1e-6, 1.005e-4, 2e-4, 1.7e-4, 3.937488e-5),
    "reference-14m": (25326, 1e-6, 1.505e-4, 3e-4, 2.7e-4, 1.046035e-4),  # 0.9 ** 10 = 0.3486784
}


@pytest.mark.parametrize("name", RECIPES)
def test_pretraining_warms_up_to_the_rate_of_the_paper_and_decays_per_epoch(name):
    per_epoch, *expected = PRETRAINING[name]
    section = recipe(name).pretrain
    steps = [0, 1500, 3000, per_epoch, 10 * per_epoch]
    rates = [learning_rate(section.optimizer, step, 20 * per_epoch, per_epoch) for step in steps]
    assert rates == pytest.approx(expected, rel=1e-5)
    assert learning_rate(section.optimizer, per_epoch - 1, 20 * per_epoch, per_epoch) == expected[2]


@pytest.mark.parametrize("name", RECIPES)
def test_finetuning_rate_follows_a_cosine_in_steps_of_an_epoch(name):
    config, per_epoch = recipe(name), 2214
    # (1 + cos(pi e / E)) / 2: E = 5 gives 0.9045085 after one epoch and 0.0954915 in the last, E = 6 gives
    # 0.9330127 and 0.0669873.
    for section, second, last in (
        (config.captioner.finetune, 0.9045085, 0.0954915),
        (config.filter.finetune, 0.9330127, 0.0669873),
    ):
        total = section.epochs * per_epoch
        shares = [
            learning_rate(section.optimizer, step, total, per_epoch) / section.optimizer.lr
            for step in (0, per_epoch - 1, per_epoch, total - 1)
        ]
        assert shares == pytest.approx([1, 1, second, last], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("vit-b-14m", {"pretrain": 252.4, "captioner": 224.0, "filter": 223.7}),  # table 3: 252 M
        (
            "vit-l-129m",
            {"captioner": 446.3, "filter": 446.1},
        ),  # these, and captioner and filter above: counted in the code
    ],
)
def test_models_have_as_many_parameters_as_in_the_paper_and_fit_their_start_weights(name, sizes):
    config = recipe(name)
    model = config.model
    with torch.device("meta"):
        for parts, millions in sizes.items():
            vision = replace(model.med.vision, image_size=config.trainings()[parts].image_size)
            med = MED(replace(model.med, parts=parts, vision=vision))
            assert sum(p.numel() for p in med.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
        start = timm.create_model(model.vision_start, pretrained=False).state_dict()
        encoder = build_vit(model.med.vision).state_dict()
    shapes = {key: value.shape for key, value in start.items() if not key.startswith("head.")}
    assert shapes == {key: value.shape for key, value in encoder.items()}
    assert timm.get_pretrained_cfg(model.vision_start) is not None, "timm has weights of this name"


def annotations(path, captions):
    path.write_text(json.dumps([{"image": f"{i}.jpg", "caption": c} for i, c in enumerate(captions)]))


INPUTS = {  # the files of docs/recipes.md, two rows each
    "coco": (".json", lambda path: annotations(path, ["one", "two"])),
    "vg": (".json", lambda path: annotations(path, ["one", "two"])),
    "cc3m": (".tsv", lambda path: path.write_text("one\t0.jpg\ntwo\t1.jpg\n")),
    "cc12m": (".tsv", lambda path: path.write_text("0.jpg\tone\n1.jpg\ttwo\n")),
    "sbu": (
        ".jsonl",
        lambda path: path.write_text(
            '{"url": "0.jpg", "caption": "one"}\n{"url": "1.jpg", "caption": "two"}\n'
        ),
    ),
    "laion": (
        ".parquet",
        lambda path: pq.write_table(
            pa.table({"SAMPLE_ID": [7, 8], "URL": ["0.jpg", "1.jpg"], "TEXT": ["one", "two"]}), path
        ),
    ),
    "karpathy_test": (".json", lambda path: annotations(path, [["one"], ["two"]])),
}


def test_input_files_are_read_as_the_recipes_say(tmp_path):
    sources = recipe("vit-b-129m").sources
    assert set(INPUTS) == set(sources)
    for name, (ending, write) in INPUTS.items():
        rows = sources[name].rows
        assert rows.manifest.endswith(ending), name
        write(tmp_path / f"{name}{ending}")
        store = Store(str(tmp_path / name))
        build_index(replace(rows, manifest=str(tmp_path / f"{name}{ending}")), store, source=name)
        found = [(row["url"], row["texts"]) for row in read_shard(store, 0).to_pylist()]
        assert found == [("0.jpg", ["one"]), ("1.jpg", ["two"])], name
