"""Initialization of pretraining: BERT weights for the text half, ViT weights for the image half.

BLIP paper, section 4.1.
"""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
from torch import Tensor

from capfilt.models.checkpoints.files import CheckpointError
from capfilt.models.checkpoints.tensors import (
    POSITIONS,
    check_finite,
    check_tensors,
    read_folder,
    read_safetensors,
    strip_prefixes,
)
from capfilt.models.network.med import MED
from capfilt.models.network.text import TextTransformer
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.network.vit import interpolate_positions

WORD_TABLE, POSITION_TABLE, TYPE_TABLE = (
    f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")
)
# (name in older BERT files, current name)
OLD_NORM_NAMES = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
# Tensors of BERT without a counterpart in MED; the decoder matrix is the word embedding table.
UNUSED_PREFIXES = ("pooler.", "cls.seq_relationship.", "cls.predictions.decoder.", "embeddings.position_ids")


def load_text_start(
    med: MED, folder: str | Path, tokenizer: Tokenizer | None = None, *, first_layers: bool = False
) -> None:
    """Initialize the text parts of a MED, in place, from a BERT folder (config.json, weights, vocabulary).

    Copies embeddings, self-attention, feed-forward, and the language-model head if the folder has one. BERT's
    first token type is added to the positions, because MED's text has no token types. Cross-attention, the
    heads of ITC and ITM, and the rows of [DEC] and [ENC] are unchanged.

    Args:
        med: the model.
        folder: the BERT folder.
        tokenizer: the tokenizer of the MED, to match word embeddings by entry, so that a custom vocabulary
            can start from BERT's. None: row i is BERT's row i.
        first_layers: use only the first layers of a BERT that is deeper than the MED.

    Raises:
        CheckpointError: sizes differ, tensors are missing or unexpected, or the MED exists only after
            finetuning.
    """
    if med.config.parts in ("vqa", "nlvr"):
        raise CheckpointError(
            f'a "{med.config.parts}" starts from a pretrained MED (load_checkpoint), not from BERT: {folder}'
        )
    folder = Path(folder)
    bert = _read_bert(folder)
    head = {name: bert.pop(name) for name in list(bert) if name.startswith("cls.predictions.")}
    words_VD, positions_PD, types_2D = (
        _pop_tensor(bert, name, folder) for name in (WORD_TABLE, POSITION_TABLE, TYPE_TABLE)
    )
    _check_heads(med, folder)
    if first_layers:
        bert = {name: tensor for name, tensor in bert.items() if _layer_number(name) < med.config.text.depth}
    rows = _matching_rows(med, folder, tokenizer, words_VD.shape[0])
    transformers = [med.text_encoder] if med.has_encoder else []
    if med.has_decoder:
        transformers.append(med.text_decoder.bert)
    for transformer in transformers:
        expected = {
            name: tensor
            for name, tensor in transformer.state_dict().items()
            if ".crossattention." not in name and name not in (WORD_TABLE, POSITION_TABLE)
        }
        check_tensors(bert, expected, str(folder))
        transformer.load_state_dict(bert, strict=False)
        _fill_embeddings(transformer, words_VD, positions_PD + types_2D[0], rows, folder)
    if med.has_decoder and head:
        _fill_head(med, head, rows, folder)


def _read_bert(folder: Path) -> dict[str, Tensor]:
    """The tensors of a BERT folder by the names of MED's text parts, without the prefix `bert.`."""
    stored, _ = read_folder(folder)
    check_finite(stored, str(folder))
    bert = {}
    for name, tensor in stored.items():
        for old, new in OLD_NORM_NAMES:
            name = name.replace(old, new)
        name = name.removeprefix("bert.")
        if not name.startswith(UNUSED_PREFIXES):
            bert[name] = tensor.float()
    return bert


def _pop_tensor(bert: dict[str, Tensor], name: str, folder: Path) -> Tensor:
    if name not in bert:
        raise CheckpointError(f"{folder} is not a BERT checkpoint", missing=[name])
    return bert.pop(name)


def _layer_number(name: str) -> int:
    """The number of a tensor's layer, starting at 0; -1 for the embeddings."""
    return int(name.split(".")[2]) if name.startswith("encoder.layer.") else -1


def _check_heads(med: MED, folder: Path) -> None:
    """Compare the number of heads, which does not show in the shapes: a wrong one would load without an
    error."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    bert_heads, heads = config.get("num_attention_heads"), med.config.text.heads
    if bert_heads != heads:
        raise CheckpointError(
            f"{folder} has {bert_heads} attention heads, the model {heads}: set text.heads to {bert_heads}"
        )


def _matching_rows(
    med: MED, folder: Path, tokenizer: Tokenizer | None, entries: int
) -> tuple[Tensor, Tensor]:
    """Rows of MED's word table, and the rows of BERT's table (`entries` rows) to copy there."""
    if tokenizer is None:
        vocab_size = med.config.text.vocab_size
        if vocab_size < entries:
            raise CheckpointError(
                f"{folder} has {entries} words, the model {vocab_size}: pass the model's tokenizer"
            )
        return torch.arange(entries), torch.arange(entries)
    bert_rows = Tokenizer.from_folder(folder).backend.get_vocab()
    pairs = [
        (row, bert_rows[entry])
        for entry, row in tokenizer.backend.get_vocab().items()
        if bert_rows.get(entry, entries) < entries
    ]
    return torch.tensor([row for row, _ in pairs]), torch.tensor([row for _, row in pairs])


@torch.no_grad()
def _fill_embeddings(
    transformer: TextTransformer,
    words_VD: Tensor,
    positions_PD: Tensor,
    rows: tuple[Tensor, Tensor],
    folder: Path,
) -> None:
    embeddings = transformer.embeddings
    words, positions = embeddings.word_embeddings.weight, embeddings.position_embeddings.weight
    if words.shape[1] != words_VD.shape[1] or positions.shape[0] > positions_PD.shape[0]:
        raise CheckpointError(
            f"{folder} has width {words_VD.shape[1]} and {positions_PD.shape[0]} positions, the model "
            f"width {words.shape[1]} and {positions.shape[0]} positions: "
            "change text.width and text.max_positions"
        )
    words[rows[0]] = words_VD[rows[1]].to(words.device)
    positions.copy_(positions_PD[: positions.shape[0]])


@torch.no_grad()
def _fill_head(med: MED, tensors: dict[str, Tensor], rows: tuple[Tensor, Tensor], folder: Path) -> None:
    bias = _pop_tensor(tensors, "cls.predictions.bias", folder)
    head = med.text_decoder.head
    expected = {
        f"cls.predictions.transform.{name}": tensor for name, tensor in head.transform.state_dict().items()
    }
    check_tensors(tensors, expected, str(folder))
    for name, tensor in expected.items():
        tensor.copy_(tensors[name])
    head.bias[rows[0]] = bias[rows[1]].to(head.bias.device)


@torch.no_grad()
def load_vision_start(med: MED, start: str | Path) -> None:
    """Initialize the image encoder of a MED, in place, from a timm ViT of the same size.

    A classification head is ignored, and positions are resampled. All other tensors must match.

    Args:
        med: the model.
        start: a safetensors file with a timm state dict, or the name of a timm model whose pretrained weights
            timm downloads, such as the paper's deit_base_patch16_224.

    Raises:
        CheckpointError: tensors do not match, or `start` is neither a file nor a timm model.
    """
    if Path(start).is_file():
        stored = strip_prefixes(read_safetensors(Path(start))[0])
        check_finite(stored, str(start))
    elif timm.is_model(str(start)):
        stored = timm.create_model(str(start), pretrained=True).state_dict()
    else:
        raise CheckpointError(f"{start} is neither a safetensors file nor the name of a timm model")
    prefix = "visual_encoder."
    tensors = {f"{prefix}{name}": tensor for name, tensor in stored.items() if not name.startswith("head.")}
    expected = {f"{prefix}{name}": tensor for name, tensor in med.visual_encoder.state_dict().items()}
    check_tensors(tensors, expected, str(start))
    for name, tensor in expected.items():
        source = interpolate_positions(tensors[name], tensor.shape[1]) if name == POSITIONS else tensors[name]
        tensor.copy_(source)
