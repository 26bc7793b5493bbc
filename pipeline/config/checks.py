"""What must hold between the sections of a config; `pipeline.config.schema` calls each check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capfilt.pipeline.config.sections import check_captioner_name

if TYPE_CHECKING:
    from capfilt.pipeline.config.schema import Config
    from capfilt.pipeline.config.sections import CaptionerSection, FilterSection


def check_tasks(config: Config) -> None:
    """Check that every downstream task has a model to start from.

    Raises:
        ValueError: what is wrong, and what to do.
    """
    if config.only_tasks:
        extra = next((n for n in ("pretrain", "export") if getattr(config, n) is not None), None)
        if not config.tasks or extra is not None:
            what = "sources: empty" if extra is None else f"{extra}: there are no sources"
            raise ValueError(f"{what}; give sources, or only tasks with a checkpoint each")
    pretrained = config.pretrained_rounds
    for name, task in config.tasks.items():
        if task.checkpoint is not None:
            continue
        if not pretrained:
            raise ValueError(f"tasks.{name}.checkpoint: missing; this run pretrains no model to start from")
        med = config.model.med
        if task.kind == "visdial" and med.vision.width != med.text.width:
            raise ValueError(
                f"tasks.{name}.kind: visdial concatenates states of image and caption, which needs equal "
                f"widths; model.med.vision.width is {med.vision.width}, model.med.text.width {med.text.width}"
            )
        for round_ in task.rounds or ():
            if round_ not in pretrained:
                allowed = ", ".join(map(str, pretrained))
                raise ValueError(f"tasks.{name}.rounds: no pretrain.{round_} in this run; allowed: {allowed}")


def check_candidates(config: Config) -> None:
    """Check that candidates name their sources, files and keys.

    Raises:
        ValueError: what is wrong, and what to do.
    """
    web = config.of_kind("web")
    for name, section in config.candidates.items():
        key = f"candidates.{name}"
        check_captioner_name(name, key)
        if not section.files:
            raise ValueError(f"{key}.files: empty; give a file, folder or glob")
        if section.source is None and len(web) != 1:
            raise ValueError(f"{key}.source: missing; allowed: {', '.join(web)}")
        if section.source is not None and section.source not in web:
            raise ValueError(
                f"{key}.source: {section.source!r} is not a source of kind web; allowed: {', '.join(web)}"
            )
        source = config.described_source(section)
        rows = config.sources[source].rows
        if name in rows.synthetic_columns:
            raise ValueError(
                f"{key}: sources.{source}.rows.synthetic_columns has a captioner of this name; rename one"
            )
        if section.join == "uid" and rows.id_column is None:
            raise ValueError(f"{key}.join: uid needs sources.{source}.rows.id_column")
    if config.candidates and config.only_downloads:
        raise ValueError("candidates: a run that only downloads judges no captions; give filter")


def check_hashes(config: Config) -> None:
    """Check that promised hashes can be compared.

    Raises:
        ValueError: what is wrong, and what to do.
    """
    if config.fetch.backend == "img2dataset":
        for name, source in config.sources.items():
            if source.rows.hash_column is not None and source.fetch is None:
                raise ValueError(
                    f"sources.{name}.rows.hash_column: fetch.backend img2dataset keeps no bytes to "
                    "compare with; use the backend capfilt, or remove the key"
                )


def check_controls(config: Config) -> None:
    """Check that the controls can be trained and compared.

    Raises:
        ValueError: what is wrong, and what to do.
    """
    if len(set(config.controls)) < len(config.controls):
        raise ValueError(f"controls: {', '.join(config.controls)}: name each control once")
    if config.controls and config.pretrain is None:
        raise ValueError("controls: are pretrained with the settings of pretrain; give that section")
    if config.controls and not config.of_kind("test"):
        raise ValueError("controls: are compared on held-out images; give a source of kind test")
    if "human_only" in config.controls and not set(config.trains_on("pretrain")) & set(
        config.of_kind("human")
    ):
        raise ValueError("controls: human_only needs a source of kind human among pretrain.sources")


def check_texts(config: Config) -> None:
    """Check that the texts of the pretrainings do not contradict the controls.

    Raises:
        ValueError: what is wrong, and what to do.
    """
    if config.pretrain is None or config.pretrain.texts.per_image == "all":
        return
    if "web_repeated" in config.controls:
        raise ValueError(
            "controls: web_repeated trains on as many pairs as texts are kept, but with "
            "pretrain.texts.per_image: one an image is one pair; remove one of them"
        )


def check_variants(config: Config) -> None:
    """Check what `shared_finetune` and `captioner.web_share` need.

    Raises:
        ValueError: what is wrong, and what to do.
    """
    sections: dict[str, CaptionerSection | FilterSection] = {
        "captioner": config.captioner,
        "filter": config.filter,
    }
    given = [f"{name}.checkpoint" for name, each in sections.items() if each.checkpoint is not None]
    untrained = [f"{name}.finetune" for name, each in sections.items() if each.finetune is None]
    if config.shared_finetune and (given or untrained):
        problem = f"{given[0]} is given" if given else f"{untrained[0]} is missing"
        raise ValueError(
            f"shared_finetune: one model is finetuned as captioner and filter, but {problem}; give "
            "captioner.finetune and filter.finetune, and no checkpoint"
        )
    for name, section in sections.items():
        if section.ensemble > 1 and (section.checkpoint is not None or section.finetune is None):
            raise ValueError(
                f"{name}.ensemble: the models of an ensemble are finetuned; give {name}.finetune and no "
                f"{name}.checkpoint, or remove the key"
            )
        if section.ensemble > 1 and config.shared_finetune:
            raise ValueError(f"{name}.ensemble: with shared_finetune there is one model; remove one of them")
    if config.captioner.web_share and config.captioner.finetune is None:
        raise ValueError("captioner.web_share: no captioner is finetuned; give captioner.finetune")
    if config.captioner.web_share and config.shared_finetune:
        raise ValueError(
            "captioner.web_share: with shared_finetune the filter would learn from noise; remove one"
        )


def check_automatic_threshold(config: Config) -> None:
    """Check that every round can be calibrated if a threshold depends on it.

    Raises:
        ValueError: it cannot.
    """
    if not config.filter.judge.is_automatic:
        return
    if config.filter.calibrate.pairs == 0:
        raise ValueError(
            "filter.judge.threshold: auto comes from a calibration, but filter.calibrate.pairs is 0; "
            "raise it, or set the threshold to a number"
        )
    for round_ in range(1, config.run.rounds + 1):
        if not config.calibrates(round_):
            raise ValueError(
                f"filter.judge.threshold: auto needs web images that no model before filter.{round_} was "
                "trained on; set pretrain.hold_out (for example 0.1), or set the threshold to a number"
            )
