"""Weights to start pretraining from: BERT for the text half, ViT for the image half (paper, section 4.1)."""

import json
from pathlib import Path

import timm
import torch
from torch import Tensor

from capfilt.models.checkpoints.files import CheckpointError
from capfilt.models.checkpoints.tensors import POSITIONS, check_names, read_pickled, read_safetensors
from capfilt.models.network.med import MED
from capfilt.models.network.text import TextTransformer
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.network.vit import interpolate_positions

WORDS, PLACES, TYPES = (f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type"))
# Names in older BERT files beside today's.
OLD_NORM_NAMES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
# Parts of a BERT that MED has no use for; the decoder matrix is the word embedding table.
UNUSED = ("pooler.", "cls.seq_relationship.", "cls.predictions.decoder.", "embeddings.position_ids")


def load_text_start(
    med: MED, folder: str | Path, tokenizer: Tokenizer | None = None, *, first_layers: bool = False
) -> None:
    """Fills the text parts of a MED, in place, from a BERT folder (config.json, weights, vocabulary).

    Copied are embeddings, self-attention, feed-forward and, where the folder has it, the language-model head;
    cross-attention, heads of ITC and ITM, and the rows of [DEC] and [ENC] stay as they are. BERT's first
    token type is added to the positions, since MED's text has no types. With `tokenizer` (the MED's) word
    rows are matched by entry, so that a vocabulary of one's own may start from BERT's; without it row i is
    BERT's row i. With `first_layers` the layers of a deeper BERT that the MED has no room for, its last, stay
    out. CheckpointError where sizes differ or tensors are missing or left over, or where the MED is one that
    only finetuning makes.
    """
    if med.config.parts in ("vqa", "nlvr"):
        raise CheckpointError(
            f'a "{med.config.parts}" starts from a pretrained MED (load_checkpoint), not from a BERT: {folder}'
        )
    folder = Path(folder)
    bert = _read_bert(folder)
    head = {name: bert.pop(name) for name in list(bert) if name.startswith("cls.predictions.")}
    words_VD, places_PD, types_2D = (_take(bert, name, folder) for name in (WORDS, PLACES, TYPES))
    _check_heads(med, folder)
    if first_layers:
        bert = {name: tensor for name, tensor in bert.items() if _layer(name) < med.config.text.depth}
    rows = _matching_rows(med, folder, tokenizer, words_VD.shape[0])
    parts = [med.text_encoder] if med.has_encoder else []
    if med.has_decoder:
        parts.append(med.text_decoder.bert)
    for part in parts:
        due = {name: tensor for name, tensor in part.state_dict().items() if ".crossattention." not in name}
        due.pop(WORDS)
        due.pop(PLACES)
        check_names(bert, due, str(folder))
        part.load_state_dict(bert, strict=False)
        _fill_embeddings(part, words_VD, places_PD + types_2D[0], rows, folder)
    if med.has_decoder and head:
        _fill_head(med, head, rows, folder)


def _read_bert(folder: Path) -> dict[str, Tensor]:
    """Tensors under names as in MED's text parts, `bert.` taken off."""
    if (folder / "model.safetensors").is_file():
        found, _ = read_safetensors(folder / "model.safetensors")
    elif (folder / "pytorch_model.bin").is_file():
        content = read_pickled(folder / "pytorch_model.bin")
        found = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    else:
        raise CheckpointError(
            f"neither model.safetensors nor pytorch_model.bin in {folder}: give a BERT folder"
        )
    bert = {}
    for name, tensor in found.items():
        for old, new in OLD_NORM_NAMES:
            name = name.replace(old, new)
        name = name.removeprefix("bert.")
        if not name.startswith(UNUSED):
            bert[name] = tensor.float()
    return bert


def _take(bert: dict[str, Tensor], name: str, folder: Path) -> Tensor:
    if name not in bert:
        raise CheckpointError(f"{folder} is no BERT", missing=[name])
    return bert.pop(name)


def _layer(name: str) -> int:
    """Number of the layer a tensor belongs to, counted from 0; -1 for the embeddings."""
    return int(name.split(".")[2]) if name.startswith("encoder.layer.") else -1


def _check_heads(med: MED, folder: Path) -> None:
    """Head counts leave no trace in shapes; a wrong one would load and be noise."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads, due = config.get("num_attention_heads"), med.config.text.heads
    if heads != due:
        raise CheckpointError(
            f"{folder} has {heads} attention heads, the model {due}: set text.heads to {heads}"
        )


def _matching_rows(
    med: MED, folder: Path, tokenizer: Tokenizer | None, entries: int
) -> tuple[Tensor, Tensor]:
    """(rows of the MED's word table, rows of BERT's that belong there)."""
    if tokenizer is None:
        known = med.config.text.vocab_size
        if known < entries:
            raise CheckpointError(
                f"{folder} has {entries} words, the model {known}: give the model's tokenizer"
            )
        return torch.arange(entries), torch.arange(entries)
    theirs = Tokenizer.from_folder(folder).backend.get_vocab()
    pairs = [
        (row, theirs[entry])
        for entry, row in tokenizer.backend.get_vocab().items()
        if theirs.get(entry, entries) < entries
    ]
    return torch.tensor([row for row, _ in pairs]), torch.tensor([row for _, row in pairs])


@torch.no_grad()
def _fill_embeddings(
    part: TextTransformer, words_VD: Tensor, places_PD: Tensor, rows: tuple[Tensor, Tensor], folder: Path
) -> None:
    words, places = part.embeddings.word_embeddings.weight, part.embeddings.position_embeddings.weight
    if words.shape[1] != words_VD.shape[1] or places.shape[0] > places_PD.shape[0]:
        raise CheckpointError(
            f"{folder} has width {words_VD.shape[1]} and {places_PD.shape[0]} positions, the model "
            f"{words.shape[1]} and {places.shape[0]}: set text.width and text.max_positions to those"
        )
    words[rows[0]] = words_VD[rows[1]].to(words.device)
    places.copy_(places_PD[: places.shape[0]])


@torch.no_grad()
def _fill_head(med: MED, found: dict[str, Tensor], rows: tuple[Tensor, Tensor], folder: Path) -> None:
    bias = _take(found, "cls.predictions.bias", folder)
    head = med.text_decoder.head
    due = {f"cls.predictions.transform.{name}": value for name, value in head.transform.state_dict().items()}
    check_names(found, due, str(folder))
    for name, tensor in due.items():
        tensor.copy_(found[name])
    head.bias[rows[0]] = bias[rows[1]].to(head.bias.device)


@torch.no_grad()
def load_vision_start(med: MED, start: str | Path) -> None:
    """Fills the image encoder of a MED, in place, from a timm ViT of its size.

    `start` is a safetensors file with a timm state dict, or a timm model name with pretrained weights
    (downloaded by timm), such as the paper's deit_base_patch16_224. A classification head is left out and
    positions are resampled; anything else must fit. CheckpointError if not, or if `start` is neither.
    """
    if Path(start).is_file():
        found, _ = read_safetensors(Path(start))
    elif timm.is_model(str(start)):
        found = timm.create_model(str(start), pretrained=True).state_dict()
    else:
        raise CheckpointError(f"{start} is neither a safetensors file nor a model that timm knows")
    prefix = "visual_encoder."
    tensors = {f"{prefix}{name}": tensor for name, tensor in found.items() if not name.startswith("head.")}
    due = {f"{prefix}{name}": tensor for name, tensor in med.visual_encoder.state_dict().items()}
    check_names(tensors, due, str(start))
    for name, tensor in due.items():
        source = interpolate_positions(tensors[name], tensor.shape[1]) if name == POSITIONS else tensors[name]
        tensor.copy_(source)
