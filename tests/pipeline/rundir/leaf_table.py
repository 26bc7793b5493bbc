"""The nodes that each config key affects: the table of `test_config_leaves.py`.

`{dir}` in a value is a folder with the files that the values name.
"""

CONTROLS = "human_only filter_only captioner_only"
PRETRAININGS = f"pretrain.0 {CONTROLS} pretrain.1"
NODES = (
    "fetch data.quiz pretrain.0 human_only captioner.1 filter.1 bootstrap.1 calibrate.1 pretrain.1 "
    "filter_only captioner_only export.1 finetune.quiz.1 evaluate.1 task.quiz.1 report.1"
)
"""Nodes of the base config, in order."""

# Prefixes of a group of keys with the nodes whose own inputs each key changes, and a new value for each key.
FETCHES = {"fetch": "fetch bootstrap.1", "sources.more.fetch": "fetch"}
ROWS = {"sources.web.rows": "fetch bootstrap.1", "sources.human.rows": "fetch"}
TRAININGS = {
    "pretrain": PRETRAININGS,
    "captioner.finetune": "captioner.1",
    "filter.finetune": "filter.1",
}
SAMPLING = {
    "captioner.generate.sampling": "bootstrap.1",
    "evaluate.caption.sampling": "evaluate.1",
    "tasks.quiz.evaluate.caption.sampling": "task.quiz.1",
}
CAPTIONS = {
    "captioner.generate": "bootstrap.1",
    "evaluate.caption": "evaluate.1",
    "tasks.quiz.evaluate.caption": "task.quiz.1",
}
TASK_DATA = "data.quiz finetune.quiz.1"
TASK = "finetune.quiz.1 task.quiz.1"
SETTINGS = {
    "objective.queue_size": 16,
    "objective.momentum": 0.9,
    "objective.alpha": 0.2,
    "objective.alpha_ramp_epochs": 1.0,
    "objective.temp_min": 0.01,
    "objective.temp_max": 0.4,
    "objective.positives": "pairs",
    "objective.contrast_all_workers": False,
    "objective.negative_all_rank": True,
    "objective.negative_floor": 0.1,
    "objective.teacher_dropout": True,
    "objective.label_smoothing": 0.2,
    "objective.prompt": "a picture of ",
    "objective.max_tokens": 20,
    "objective.max_words": 20,
    "optimizer.lr": 1e-2,
    "optimizer.vision_lr_scale": 0.5,
    "optimizer.weight_decay": 0.1,
    "optimizer.decay_all": True,
    "optimizer.betas": [0.8, 0.9],
    "optimizer.warmup_steps": 7,
    "optimizer.warmup_lr": 1e-5,
    "optimizer.schedule": "linear",
    "optimizer.decay_rate": 0.5,
    "optimizer.decay_every": "epoch",
    "optimizer.min_lr": 1e-5,
    "optimizer.clip_grad": 0.5,
    "augment.min_scale": 0.5,
    "augment.hflip": True,
    "augment.randaugment": True,
    "augment.operations": 1,
    "augment.magnitude": 3.0,
    "batch_size": 64,
    "accumulate": 2,
    "precision": "bfloat16",
    "epochs": 3.0,
    "steps": 10,
    "image_size": 64,
    "window_shards": 4,
}
"""A new value for each key of a training that changes the model."""
SPEED = {
    "decode_threads": 0,
    "checkpoint_layers": 1,
    "workers.workers": 2,
    "workers.cpus_per_worker": 2,
    "workers.gpus_per_worker": 0,
    "workers.max_failures": 0,
    "workers.checkpoint_every": 10,
    "workers.log_every": 10,
}
"""The same for keys that only change how fast it is."""
TABLE = [
    ({"run": f"{PRETRAININGS} captioner.1 filter.1 bootstrap.1 evaluate.1 {TASK}"}, {"seed": 7}),
    ({"run": "report.1"}, {"name": "other"}),
    (
        {"run": ""},
        {
            "dir": "runs/other",
            "rounds": 2,
            "max_failed_fraction": 0.5,
            "grace_seconds": 5,
            "storage_options": {"anon": True},
        },
    ),
    # A corpus is identified by its manifest; its generator refuses a folder made with other settings.
    (
        {"shapes": ""},
        {
            "human": 10,
            "web": 10,
            "test": 10,
            "noise": 0.4,
            "boilerplate": 0.2,
            "partial": 0.2,
            "incomplete": 0.5,
            "vocabulary": "rich",
            "questions": 4,
            "statements": 4,
            "dialogs": 4,
            "videos": 4,
            "labeled": 4,
            "human_words": 0.5,
            "seed": 1,
            "image_size": 48,
        },
    ),
    ({"clipart": ""}, {"web": 10, "test": 10, "swapped": 0.1, "repeats": 2, "image_size": 64, "seed": 1}),
    ({"": ""}, {"shapes_dir": "other", "clipart_dir": "other"}),
    ({"": "evaluate.1"}, {"controls": ["human_only"]}),
    ({"sources.more": PRETRAININGS}, {"kind": "test"}),
    (
        ROWS,
        {
            "manifest": "other.csv",
            "format": "csv",
            "url_column": "link",
            "caption_column": "title",
            "truth_column": "noise",
            "columns": ["a", "b"],
            "splits": ["train"],
            "shard_size": 10,
            "keep_columns": ["a"],
            "rename_columns": {"a": "b"},
            "column_types": {"a": "int64"},
            "id_column": "uid",
            "hash_column": "hash",
            "synthetic_columns": {"recap": "a"},
        },
    ),
    (
        {"candidates.recap": "join"},
        {
            "files": "other.parquet",
            "join": "key",
            "join_column": "link",
            "text_column": "caption",
            "source": "web",
        },
    ),
    ({"candidates.recap": ""}, {"storage_options": {"anon": True}}),
    ({"sources.web.rows": "", "sources.human.rows": ""}, {"storage_options": {"anon": True}}),
    ({"sources.human": "fetch"}, {"images": "other"}),
    ({"sources.more": "fetch"}, {"base_url": "https://host/other/"}),
    ({"sources.web": "fetch bootstrap.1"}, {"serve": "other"}),
    ({"sources.web": "pretrain.0 filter_only captioner_only pretrain.1"}, {"parts": 2}),
    (
        FETCHES,
        {
            "backend": "img2dataset",
            "base_url": "https://host/",
            "image_root": "images",
            "max_bytes": 1000,
            "robots": False,
            "optout": ["noai"],
            "optout_signals": ["content-usage"],
            "blocked": ["{dir}/blocked.txt"],
            "image.min_side": 48,
            "image.max_aspect": 3.0,
            "image.max_pixels": 10_000,
            "image.resize": "longer",
            "image.size": 224,
            "image.format": "webp",
            "image.quality": 80,
            "image.background": "#000000",
        },
    ),
    (
        {"fetch": "", "sources.more.fetch": ""},
        {
            "deadline_s": 5.0,
            "connect_timeout_s": 1.0,
            "memory_bytes": 1000,
            "max_redirects": 1,
            "retries": 0,
            "backoff_s": 0.5,
            "concurrency": 4,
            "per_host": 1,
            "per_host_per_second": None,
            "max_crawl_wait_s": 1.0,
            "host_failures": 1,
            "host_rest_s": 1.0,
            "contact": "me@example.org",
            "allow_private": ["host"],
            "storage_options": {"anon": True},
            "decode_threads": 1,
        },
    ),
    (
        {"duplicates": "pretrain.0 bootstrap.1 calibrate.1"},
        {"policy": "flag", "max_copies": 3, "perceptual": True},
    ),
    (
        {"model": PRETRAININGS},
        {
            "vision_start": "vit_tiny_patch16_224",
            "text_start": "bert",
            "text_start_layers": "first",
            "tokenizer": "tokenizer",
            "vocab_size": 128,
            "med.vision.image_size": 64,
            "med.vision.patch_size": 16,
            "med.vision.width": 32,
            "med.vision.depth": 3,
            "med.vision.heads": 2,
            "med.vision.mlp_ratio": 2.0,
            "med.vision.drop_path": 0.1,
            "med.vision.stem": "patch",
            "med.vision.checkpoint_layers": 1,
            "med.text.vocab_size": 100,
            "med.text.width": 32,
            "med.text.depth": 3,
            "med.text.heads": 2,
            "med.text.ffn": 64,
            "med.text.max_positions": 64,
            "med.text.dropout": 0.1,
            "med.text.layer_norm_eps": 1e-5,
            "med.text.init_std": 0.02,
            "med.embed_dim": 32,
            "med.sharing": "none",
            "med.parts": "captioner",
        },
    ),
    (
        TRAININGS,
        {"objective.losses": ["itc"], "sources": ["human"]} | SETTINGS,
    ),
    (dict.fromkeys(TRAININGS, ""), SPEED),
    (
        {"captioner.finetune.validation": "captioner.1", "filter.finetune.validation": "filter.1"},
        {"share": 0.2, "every": 10, "patience": 5},
    ),
    ({"": "pretrain.1"}, {"continue_training": True}),
    (
        {"pretrain.texts": "filter_only captioner_only pretrain.1 export.1"},
        {"human": 2, "web": 0.5, "synthetic": 0, "per_image": "one"},
    ),
    ({"pretrain.texts": "filter_only captioner_only pretrain.1"}, {"sentences": "sample"}),
    ({"pretrain.texts": "filter_only pretrain.1"}, {"verdicts": "strict"}),
    ({"captioner": "captioner.1"}, {"web_share": 0.2}),
    ({"captioner": "bootstrap.1", "filter": "bootstrap.1 calibrate.1"}, {"ensemble": 2}),
    ({"": "bootstrap.1 calibrate.1"}, {"shared_finetune": True}),
    (
        {"captioner": "bootstrap.1", "filter": "bootstrap.1 calibrate.1"},
        {"checkpoint": "{dir}/second.pth", "tokenizer": "{dir}/tokenizer"},
    ),
    (
        SAMPLING,
        {
            "strategy": "beam",
            "top_p": 0.5,
            "top_k": 5,
            "temperature": 2.0,
            "repetition_penalty": 1.5,
            "penalty_scope": "all",
            "min_new_tokens": 2,
            "max_new_tokens": 10,
            "num_beams": 4,
        },
    ),
    (
        CAPTIONS,
        {"captions_per_image": 2, "prompt": "a photo of ", "image_size": 64, "precision": "bfloat16"},
    ),
    (
        {"filter.judge": "bootstrap.1 calibrate.1"},
        {
            "itm_token": "cls",
            "image_size": 64,
            "precision": "bfloat16",
            "max_words": 10,
        },
    ),
    ({"filter.judge": "bootstrap.1"}, {"threshold": 0.25, "language": True}),
    ({"filter.calibrate": "calibrate.1"}, {"pairs": 100}),
    ({"pretrain": PRETRAININGS}, {"hold_out": 0.5}),
    (dict.fromkeys([*CAPTIONS, "filter.judge"], ""), {"batch_size": 4}),
    ({"tasks.quiz": TASK_DATA}, {"kind": "retrieval"}),
    (
        {"tasks.quiz": "finetune.quiz task.quiz"},
        {"checkpoint": "{dir}/second.pth", "tokenizer": "{dir}/tokenizer"},
    ),
    ({"tasks.quiz": ""}, {"rounds": None}),
    (
        {"tasks.quiz.data.train.shapes": "data.quiz", "tasks.quiz.data.test": "data.quiz"},
        {
            "file": "other.json",
            "images": "other",
            "split": "val",
            "limit": 10,
            "annotations": "answers.json",
            "image_name": "{image_id}.png",
        },
    ),
    (
        {"tasks.quiz.evaluate": "task.quiz.1"},
        {"k": 8, "answers": "{dir}/answers.json", "classes": "{dir}/answers.json", "templates": ["a {}"]},
    ),
    ({"tasks.quiz": "finetune.quiz.1"}, {"negatives": 2}),
    ({"tasks.quiz": "data.quiz"}, {"frames": 4}),
    (
        {"tasks.quiz.finetune": "finetune.quiz.1"},
        {"objective.losses": ["itm", "itc"]} | {k: v for k, v in SETTINGS.items() if k != "image_size"},
    ),
    ({"tasks.quiz.finetune": TASK}, {"image_size": 64}),
    ({"tasks.quiz.finetune": ""}, SPEED),
    ({"evaluate": "evaluate.1"}, {"k": 8, "limit": 10}),
    ({"report": "report.1"}, {"examples": 3}),
    (
        {"export": "export.1"},
        {"to": "parquet", "out": "elsewhere", "human": True, "origins": ["web"], "columns": ["truth"]},
    ),
    (
        {"cluster": ""},
        {
            "address": "local",
            "fetch_actors": 1,
            "model_actors": 1,
            "caption_actors": 1,
            "filter_actors": 1,
            "fuse": "never",
            "fetch_labels": {"pool": "download"},
            "gpus_per_actor": 0.5,
            "segment": 10,
            "stall_seconds": 10,
            "worker_memory_gb": 1.0,
            "object_store_gb": 1.0,
            "wait_for": {"gpus": 1},
            "resize_seconds": 10,
            "allow_cpu": True,
        },
    ),
    # Optional sections as a whole.
    ({"": ""}, {"shapes": None, "clipart": None, "export": None}),
    ({"cluster.wait_for": ""}, {"gpus": 2, "cpus": 3, "seconds": 10}),
    (
        {f"cluster.actors.{stage}": "" for stage in ("fetch", "model", "captioner", "filter")},
        {"min": 2, "max": 3},
    ),
    ({"sources.more": "fetch"}, {"fetch": None}),
]
ROWS_OF_TABLE = {
    f"{prefix}.{key}" if prefix else key: (value, nodes.split())
    for prefixes, changes in TABLE
    for prefix, nodes in prefixes.items()
    for key, value in changes.items()
}

# What a key needs beside it, before and after the change.
CANDIDATES = {"files": "captions.parquet", "join": "url"}
CLASSES = {"kind": "classification", "data": {"test": {"images": "images"}}, "rounds": [1]}
NEEDED = {
    **{
        f"candidates.recap.{key}": {"candidates.recap": CANDIDATES}
        for key in ("files", "join", "join_column", "text_column", "source", "storage_options")
    },
    "captioner.checkpoint": {"captioner.checkpoint": "{dir}/first.pth"},
    "captioner.tokenizer": {"captioner.checkpoint": "{dir}/first.pth"},
    "filter.checkpoint": {"filter.checkpoint": "{dir}/first.pth"},
    "filter.tokenizer": {"filter.checkpoint": "{dir}/first.pth"},
    **{
        f"{prefix}.epochs": {f"{prefix}.steps": None, f"{prefix}.epochs": 2}
        for prefix in (*TRAININGS, "tasks.quiz.finetune")
    },
    "tasks.quiz.finetune.objective.losses": {"tasks.quiz.kind": "retrieval"},
    "tasks.quiz.evaluate.k": {"tasks.quiz.kind": "retrieval"},
    "tasks.quiz.evaluate.answers": {"tasks.quiz.kind": "vqa"},
    **{f"tasks.quiz.evaluate.{key}": {"tasks.quiz": CLASSES} for key in ("classes", "templates")},
    "tasks.quiz.negatives": {"tasks.quiz.kind": "visdial"},
    "tasks.quiz.frames": {"tasks.quiz.kind": "video_qa"},
    **{
        f"tasks.quiz.data.{part}.{key}": {"tasks.quiz.kind": "vqa"}
        for part in ("train.shapes", "test")
        for key in ("annotations", "image_name")
    },
    **{
        f"{role}.finetune.validation.{key}": {f"{role}.finetune.validation": {}}
        for role in ("captioner", "filter")
        for key in ("share", "every", "patience")
    },
    **{f"cluster.wait_for.{key}": {"cluster.wait_for": {}} for key in ("gpus", "cpus", "seconds")},
    "tasks.quiz.checkpoint": {"tasks.quiz.checkpoint": "{dir}/first.pth", "tasks.quiz.rounds": None},
    "tasks.quiz.tokenizer": {"tasks.quiz.checkpoint": "{dir}/first.pth", "tasks.quiz.rounds": None},
    **{f"{prefix}.objective.alpha": {f"{prefix}.objective.queue_size": 16} for prefix in TRAININGS},
    "filter.finetune.objective.prompt": {"filter.finetune.objective.losses": ["lm"]},
    **{
        f"{prefix}.backend": {
            f"{prefix}.robots": False,
            f"{prefix}.per_host_per_second": None,
            f"{prefix}.image.resize": "shorter",
        }
        for prefix in FETCHES
    },
}

TWO_ROUNDS = {  # with run.rounds 2: path -> new value, nodes
    "duplicates.max_copies": (3, "pretrain.0 bootstrap.1 calibrate.1 bootstrap.2 calibrate.2"),
    "continue_training": (True, "pretrain.1 pretrain.2"),
    "pretrain.texts.web": (2, "filter_only captioner_only pretrain.1 pretrain.2 export.2"),
    "captioner.web_share": (0.2, "captioner.1 captioner.2"),
    "sources.web.parts": (2, "pretrain.0 filter_only captioner_only pretrain.1 pretrain.2"),
    "captioner.finetune.steps": (10, "captioner.1 captioner.2"),
    "captioner.ensemble": (2, "bootstrap.1 bootstrap.2"),
    "captioner.finetune.validation": ({"every": 5}, "captioner.1 captioner.2"),
    "filter.ensemble": (2, "bootstrap.1 calibrate.1 bootstrap.2 calibrate.2"),
    "captioner.checkpoint": ("{dir}/second.pth", "bootstrap.1"),
    "captioner.tokenizer": ("{dir}/tokenizer", "bootstrap.1"),
    "filter.judge.threshold": (0.25, "bootstrap.1 bootstrap.2"),
    "sources.web.rows.shard_size": (10, "fetch bootstrap.1 bootstrap.2"),
    "evaluate.k": (8, "evaluate.1 evaluate.2"),
    "report.examples": (3, "report.1 report.2"),
}
