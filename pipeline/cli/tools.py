"""Commands that need no run: `evaluate` and `convert` for checkpoints, `shapes` and `clipart` for data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from capfilt.models.config import Precision
from capfilt.models.tasks.options import RERANKED, TEMPLATES, CaptionerOptions
from capfilt.pipeline.cli.exits import UserErrors
from capfilt.pipeline.console.activity import Activity
from capfilt.pipeline.console.evaluation_table import print_evaluation
from capfilt.pipeline.console.streams import make_console
from capfilt.pipeline.console.summary import print_fields

if TYPE_CHECKING:
    from rich.console import Console

    from capfilt.pipeline.use.evaluation import TaskRequest

FolderArgument = Annotated[str, typer.Argument(metavar="FOLDER", help="The folder to make.")]


def evaluate(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="capfilt or transformers folder, BLIP or LAVIS .pth, or hf://org/name; local or any fsspec "
            "URL.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="COCO captions, Karpathy, BLIP or NoCaps json, or a manifest (Parquet, CSV, TSV, JSONL) "
            "with columns url and text. vqa: questions; nlvr2: statements; classification: a folder for each "
            "class, a list with image and label, or COCO's instances.",
        ),
    ],
    images: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the paths of FILE begin, also a URL. Default: beside FILE.",
        ),
    ] = None,
    task: Annotated[
        Literal["retrieval", "caption", "vqa", "nlvr2", "classification"] | None,
        typer.Option(help="Default: retrieval and caption, as far as the checkpoint can."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Split of Karpathy's json. Default: test.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N images. Default: all.")
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help=f"ITC candidates that ITM ranks again: {RERANKED} of retrieval by default (Flickr30k: 128), "
            "none of classification; vqa: answers whose likelihoods are compared, 128.",
            show_default=False,
        ),
    ] = None,
    annotations: Annotated[
        str | None, typer.Option(metavar="FILE", help="vqa: annotations of VQA v2.")
    ] = None,
    image_name: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="vqa: file names of the images, with {image_id} and {subtype}."),
    ] = None,
    answers: Annotated[
        str | None, typer.Option(metavar="FILE", help="vqa: JSON list of the answers that are ranked.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="classification: JSON list of the classes, or object from labels to classes. Default: the "
            "labels.",
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help=f"classification: prompt with {{}} for the class. Repeatable. Default: {TEMPLATES[0]!r}.",
            show_default=False,
        ),
    ] = None,
    itm_token: Annotated[
        Literal["enc", "cls"],
        typer.Option(help="First token for ITM: enc as in training, cls as in transformers."),
    ] = "enc",
    prompt: Annotated[
        str, typer.Option(metavar="TEXT", help="Text that captions continue.")
    ] = CaptionerOptions.prompt,
    beams: Annotated[int, typer.Option(min=1, metavar="N", help="Beams of the captioning; 1: greedy.")] = 3,
    repetition_penalty: Annotated[
        float,
        typer.Option(metavar="X", help="Above 1: fewer repeated tokens (BLIP on NoCaps: 1.1)."),
    ] = 1.0,
    image_size: Annotated[
        int | None, typer.Option(min=8, metavar="PIXELS", help="Default: that of the checkpoint.")
    ] = None,
    precision: Annotated[Precision, typer.Option(help="auto: bfloat16 on GPUs that support it.")] = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Images, texts or pairs per forward pass; halved when memory runs out. Default: 64, on a "
            "GPU 256.",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Tokenizer, for a checkpoint without one (BLIP .pth)."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Where the files go. Default: evaluations/CHECKPOINT-FILE, by their names."
        ),
    ] = None,
) -> None:
    """Evaluate a checkpoint on a test set: retrieval by ITC and ITM, captions by beam search, or another task
    of the paper.
    """
    from capfilt.models.decoding.config import SamplingConfig
    from capfilt.pipeline.config.load import ConfigError, refuse_credentials
    from capfilt.pipeline.testset.evaluate import (
        EvaluationRequest,
        check_request,
        evaluate_checkpoint,
    )
    from capfilt.pipeline.testset.results import default_folder, write_results
    from capfilt.pipeline.use.evaluation import TaskRequest
    from capfilt.stages.bootstrap.caption import CaptionConfig
    from capfilt.stages.storage.store import Store

    console = make_console()
    if task == "vqa" or task == "nlvr2" or task == "classification":  # mypy narrows by ==
        with UserErrors(), Activity(console) as activity:
            refuse_credentials(out or "", "--out")
            if split is not None:
                raise ConfigError("--split: only for --task retrieval and caption; remove it")
            _evaluate_task(
                TaskRequest(
                    task=task,
                    checkpoint=checkpoint,
                    data=data,
                    images=images,
                    annotations=annotations,
                    image_name=image_name,
                    answers=answers,
                    classes=classes,
                    templates=tuple(template or ()),
                    k=k,
                    limit=limit,
                    image_size=image_size,
                    precision=precision,
                    batch_size=batch_size,
                    tokenizer=tokenizer,
                ),
                out,
                console,
                activity,
            )
        return
    with UserErrors(), Activity(console) as activity:
        others = {"annotations": annotations, "image-name": image_name, "answers": answers,
                  "classes": classes, "template": template}  # fmt: skip
        if (name := next((name for name, value in others.items() if value), None)) is not None:
            raise ConfigError(f"--{name}: only for --task vqa or classification; remove it")
        if k == 0:
            raise ConfigError("--k 0: at least one candidate is ranked; only a classification may have none")
        if repetition_penalty <= 0:
            raise ConfigError(
                f"--repetition-penalty {repetition_penalty:g}: it must be above 0; 1 has no effect"
            )
        sampling = SamplingConfig(
            strategy="beam" if beams > 1 else "greedy",
            num_beams=max(2, beams),
            repetition_penalty=repetition_penalty,
            penalty_scope="all",
        )
        request = EvaluationRequest(
            checkpoint=checkpoint,
            data=data,
            images=images,
            task=task,
            split=split,
            limit=limit,
            k=RERANKED if k is None else k,
            itm_token=itm_token,
            caption=CaptionConfig(
                prompt=prompt,
                sampling=sampling,
                precision=precision,
                image_size=image_size,
            ),
            batch_size=batch_size,
            tokenizer=tokenizer,
        )
        refuse_credentials(out or "", "--out")
        test_set = check_request(request, activity)
        activity("loading torch")
        found = evaluate_checkpoint(request, test_set, activity.update)
        activity("writing the results")
        files = write_results(found, Store(out or default_folder(request)))
        activity.stop()
        print_evaluation(console, found, files)


def _evaluate_task(request: TaskRequest, out: str | None, console: Console, activity: Activity) -> None:
    """Evaluate a task, write the files and print the figures."""
    from capfilt.pipeline.testset.results import default_folder
    from capfilt.pipeline.use.evaluation import check_task, evaluate_task
    from capfilt.pipeline.use.results import summary_lines, write_task_results
    from capfilt.stages.storage.store import Store

    records = check_task(request, activity)
    activity("loading torch")
    found = evaluate_task(request, records, activity.update)
    activity("writing the results")
    files = write_task_results(found, Store(out or default_folder(request)))
    activity.stop()
    print_fields(console, [*summary_lines(found), *(("file", file) for file in files)])


def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="Checkpoint: capfilt or transformers folder, BLIP or LAVIS .pth."),
    ],
    target: Annotated[str, typer.Argument(metavar="DST", help="What to write; must not exist.")],
    to: Annotated[Literal["hf", "blip", "capfilt"], typer.Option(help="Layout of DST.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Tokenizer, for a checkpoint without one (BLIP .pth)."),
    ] = None,
    parts: Annotated[
        Literal["captioner", "filter", "vqa"] | None,
        typer.Option(help="Write only this part of a pretrained model. Default: everything."),
    ] = None,
) -> None:
    """Convert a checkpoint between the layouts of capfilt, transformers and BLIP, strictly."""
    from capfilt.models.checkpoints.load import export_checkpoint
    from capfilt.pipeline.config.load import refuse_credentials
    from capfilt.stages.storage.artifacts import ArtifactError, ensure_local

    console = make_console()
    with UserErrors(), Activity(console) as activity:
        refuse_credentials(source, "SRC")
        if Path(target).exists():
            raise ArtifactError(f"DST {target}: already exists; name another path, or remove it first")
        activity(f"reading {source}")
        path = ensure_local(source, "SRC")
        words = None if tokenizer is None else ensure_local(tokenizer, "--tokenizer")
        activity(f"converting {source}")
        export_checkpoint(path, target, to=to, parts=parts, tokenizer=words)
        activity.stop()
        console.print(f"wrote {target} ({to} layout)", highlight=False, markup=False)


def shapes(folder: FolderArgument) -> None:
    """Make the procedural corpus of colored shapes with planted noise."""
    from capfilt.pipeline.corpora.shapes import ShapesConfig, make_shapes
    from capfilt.pipeline.prepare import make_corpus

    console = make_console()
    with UserErrors(), Activity(console) as activity:
        activity(f"making {folder}")
        make_corpus(make_shapes, ShapesConfig(), folder)
        activity.stop()
        console.print(f"made {folder}: human/, web/, test/", highlight=False, markup=False)


def clipart(folder: FolderArgument) -> None:
    """Make the clip-art corpus (Tux Paint stamps, Open Clip Art) from Debian packages."""
    from capfilt.pipeline.corpora.clipart import ClipartConfig, make_clipart
    from capfilt.pipeline.prepare import make_corpus

    console = make_console()
    with UserErrors(), Activity(console) as activity:
        activity(f"making {folder}")
        make_corpus(make_clipart, ClipartConfig(), folder)
        activity.stop()
        console.print(f"made {folder}: human/, web/, test/", highlight=False, markup=False)
