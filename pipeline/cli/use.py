"""Commands that use a model on pictures, without a run and Ray: `caption`, `match`, `answer`, `rank`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from capfilt.models.config import Precision
from capfilt.models.tasks.options import CaptionerOptions
from capfilt.pipeline.cli.exits import UserErrors
from capfilt.pipeline.use.request import CHECKPOINT_VARIABLE, ModelRequest

if TYPE_CHECKING:
    from capfilt.models.network.med import MED
    from capfilt.models.network.tokenizer import Tokenizer
    from capfilt.pipeline.use.describe import Describer, Record
    from capfilt.pipeline.use.models import ChosenModel

ImagesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE",
        help="Files, folders (with their folders), patterns as 'photos/**/*.jpg', URLs, or - for paths on "
        "stdin.",
        show_default=False,
    ),
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        envvar=CHECKPOINT_VARIABLE,
        help="capfilt or transformers folder, BLIP or LAVIS .pth, hf://org/name, or a run directory: "
        "its newest model that can do this.",
        show_default=False,
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="Tokenizer, for a checkpoint without one (BLIP .pth)."),
]
ImageSizeOption = Annotated[
    int | None, typer.Option(min=8, metavar="PIXELS", help="Default: that of the checkpoint.")
]
DeviceOption = Annotated[
    str, typer.Option(metavar="NAME", help="auto (a GPU if there is one), cpu, cuda or cuda:1.")
]
PrecisionOption = Annotated[Precision, typer.Option(help="auto: bfloat16 on GPUs that support it.")]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Pictures per forward pass; halved when memory runs out. Default: 64, on a GPU 256.",
    ),
]
JsonOption = Annotated[
    bool | None,
    typer.Option(
        "--json/--plain",
        help="JSON lines, or lines for people. Default: for people on a terminal, else JSON lines.",
        show_default=False,
    ),
]
TextOption = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="A text. Repeatable.")]
TextsOption = Annotated[str | None, typer.Option(metavar="FILE", help="Texts, one a line.")]


def caption(
    images: ImagesArgument,
    checkpoint: CheckpointOption = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Captions of each picture.")] = 1,
    sampling: Annotated[
        Literal["beam", "nucleus", "greedy"],
        typer.Option(help="beam: the most probable; nucleus: varied, as runs caption; greedy: fast."),
    ] = "beam",
    beams: Annotated[int, typer.Option(min=2, metavar="N", help="Beams of beam search.")] = 3,
    top_p: Annotated[
        float, typer.Option(min=1e-6, max=1.0, metavar="P", help="Probability mass of nucleus sampling.")
    ] = 0.9,
    max_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Longest caption, without the prompt.")
    ] = 16,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Text that captions continue. Default: that of the training, if the model is of a run; else "
            f"{CaptionerOptions.prompt!r}.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="For nucleus sampling.")] = 0,
    tokenizer: TokenizerOption = None,
    image_size: ImageSizeOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSizeOption = None,
    as_json: JsonOption = None,
) -> None:
    """Write captions of pictures.

    One JSON line for each caption: image, status, caption, logprob. A picture that cannot be read is a line
    with its status and reason, and the exit code is 1.
    """
    from capfilt.models.decoding.config import SamplingConfig
    from capfilt.pipeline.use.command import run_command
    from capfilt.stages.errors import UserError

    request = ModelRequest(checkpoint, tokenizer, image_size, device, precision, batch_size)

    def make(model: tuple[MED, Tokenizer], chosen: ChosenModel, size: int) -> Describer:
        from capfilt.models.tasks.captioner import Captioner
        from capfilt.pipeline.use.describe import WriteCaptions

        default = CaptionerOptions.prompt if chosen.prompt is None else chosen.prompt
        options = CaptionerOptions(
            prompt=default if prompt is None else prompt,
            sampling=SamplingConfig(
                strategy=sampling, num_beams=max(beams, n, 2), top_p=top_p, max_new_tokens=max_tokens
            ),
            batch_size=size,
            precision=precision,
        )
        return WriteCaptions(Captioner(*model, options, device=device), n, seed)

    with UserErrors():
        if sampling == "greedy" and n > 1:
            raise UserError(f"--n {n}: greedy decoding has one caption; use --sampling nucleus or beam")
        run_command(images, request, "caption", make, as_json, lambda record: record["caption"])


def match(
    images: ImagesArgument,
    text: TextOption = None,
    texts: TextsOption = None,
    checkpoint: CheckpointOption = None,
    itm_token: Annotated[
        Literal["enc", "cls"],
        typer.Option(help="First token for ITM: enc as in training, cls as in transformers."),
    ] = "enc",
    tokenizer: TokenizerOption = None,
    image_size: ImageSizeOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSizeOption = None,
    as_json: JsonOption = None,
) -> None:
    """Score how well texts match pictures: every text with every picture.

    One JSON line for each pair: image, status, text, itm_prob (probability of "matched"), itc_sim (cosine). A
    picture that cannot be read is a line with its status and reason, and the exit code is 1.
    """
    from capfilt.pipeline.use.command import run_command
    from capfilt.pipeline.use.texts import read_texts

    request = ModelRequest(checkpoint, tokenizer, image_size, device, precision, batch_size)

    def make(model: tuple[MED, Tokenizer], chosen: ChosenModel, size: int) -> Describer:
        from capfilt.models.tasks.matcher import Matcher
        from capfilt.models.tasks.options import MatcherOptions
        from capfilt.pipeline.use.describe import MatchTexts

        options = MatcherOptions(itm_token=itm_token, batch_size=size, precision=precision)
        return MatchTexts(Matcher(*model, options, device=device), given)

    def say(record: Record) -> str:
        return f"{record['itm_prob']:6.1%} matched, cosine {record['itc_sim']:.3f}  {record['text']}"

    with UserErrors():
        given = read_texts(text or (), texts, "text")
        run_command(images, request, "match", make, as_json, say)


def answer(
    images: ImagesArgument,
    question: Annotated[
        list[str] | None, typer.Option("--question", "-q", metavar="TEXT", help="A question. Repeatable.")
    ] = None,
    questions: Annotated[str | None, typer.Option(metavar="FILE", help="Questions, one a line.")] = None,
    choice: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="An answer to choose from. Repeatable. Default: any answer."),
    ] = None,
    choices: Annotated[
        str | None, typer.Option(metavar="FILE", help="Answers to choose from, one a line.")
    ] = None,
    checkpoint: CheckpointOption = None,
    tokenizer: TokenizerOption = None,
    image_size: ImageSizeOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSizeOption = None,
    as_json: JsonOption = None,
) -> None:
    """Answer questions about pictures: every question for every picture.

    One JSON line for each question: image, status, question, answer, logprob. A picture that cannot be read
    is a line with its status and reason, and the exit code is 1.
    """
    from capfilt.pipeline.use.command import run_command
    from capfilt.pipeline.use.texts import read_texts

    request = ModelRequest(checkpoint, tokenizer, image_size, device, precision, batch_size)

    def make(model: tuple[MED, Tokenizer], chosen: ChosenModel, size: int) -> Describer:
        from capfilt.models.tasks.answerer import Answerer
        from capfilt.models.tasks.options import AnswererOptions
        from capfilt.pipeline.use.describe import AnswerQuestions

        options = AnswererOptions(batch_size=size, precision=precision)
        return AnswerQuestions(Answerer(*model, options, device=device), asked, offered)

    def say(record: Record) -> str:
        return str(record["answer"] if len(asked) == 1 else f"{record['question']}  {record['answer']}")

    with UserErrors():
        asked = read_texts(question or (), questions, "question")
        offered = read_texts(choice or (), choices, "choice") if choice or choices else []
        run_command(images, request, "answer", make, as_json, say)


def rank(
    images: ImagesArgument,
    text: TextOption = None,
    texts: TextsOption = None,
    checkpoint: CheckpointOption = None,
    what: Annotated[
        Literal["texts", "images"] | None,
        typer.Option(
            help="texts: the best texts for each picture; images: the best pictures for each text. Default: "
            "images for one text, else texts.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Places to print.")] = 10,
    k: Annotated[
        int,
        typer.Option(
            "--k", "-k", min=0, metavar="N", help="Best candidates by ITC that ITM ranks again; 0: none."
        ),
    ] = 0,
    tokenizer: TokenizerOption = None,
    image_size: ImageSizeOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    batch_size: BatchSizeOption = None,
    as_json: JsonOption = None,
) -> None:
    """Rank texts for pictures, or pictures for texts, by ITC; with --k the best ones again by ITM.

    One JSON line for each place: image, status, rank, text, itc_sim, itm_prob (null where ITM did not rank).
    A picture that cannot be read is a line with its status and reason, and the exit code is 1.
    """
    from capfilt.pipeline.use.command import run_command
    from capfilt.pipeline.use.texts import read_texts

    request = ModelRequest(checkpoint, tokenizer, image_size, device, precision, batch_size)

    def make(model: tuple[MED, Tokenizer], chosen: ChosenModel, size: int) -> Describer:
        from capfilt.models.tasks.options import MatcherOptions
        from capfilt.models.tasks.ranker import Ranker
        from capfilt.pipeline.use.describe import RankPictures, RankTexts

        ranker = Ranker(*model, MatcherOptions(batch_size=size, precision=precision), device=device)
        return RankPictures(ranker, given, k, top, size) if of_images else RankTexts(ranker, given, k, top)

    def say(record: Record) -> str:
        prob = "" if record["itm_prob"] is None else f" {record['itm_prob']:6.1%}"
        item = record["image"] if of_images else record["text"]
        return f"{record['rank']:>3}. {record['itc_sim']:.3f}{prob}  {item}"

    with UserErrors():
        given = read_texts(text or (), texts, "text")
        of_images = len(given) == 1 if what is None else what == "images"
        run_command(images, request, "match", make, as_json, say, heading="text" if of_images else "image")
