"""The input of BLIP's dialog encoder (arXiv 2201.12086, section 5.5 and figure 5c).

The dialog encoder is the image-grounded encoder with the ITM head. It reads the whole dialog and attends to
the states of the image and those of its caption, which the text encoder alone has made, as one sequence.

A dialog is the token [ENC], then question, answer, question, answer, ..., each closed by [SEP]. The last
answer is the candidate whose truth is asked for.

Shape suffixes: B images, N image tokens, C tokens of a caption, M dialogs, T tokens of a dialog, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from capfilt.models.caption_text import normalize_caption
from capfilt.models.network.attention import CrossKV
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import MAX_WORD_CHARACTERS, Tokenizer

CAPTION_TOKENS = 40
"""Longest caption of an image that is read, in tokens."""
DIALOG_TOKENS = 256
"""Longest dialog that is read, in tokens, as in VD-ViLBERT; of a longer one the oldest rounds are left
out."""


def check_dialog_model(med: MED) -> None:
    """Check that a model can read dialogs.

    Raises:
        ValueError: it has no text encoder with the head of ITM, or its images and texts differ in width.
    """
    config = med.config
    if not med.has_encoder:
        raise ValueError(
            f'the model is a "{config.parts}" and ranks no answers of dialogs: use a "filter" or a "pretrain"'
        )
    if config.vision.width != config.text.width:
        raise ValueError(
            f"the image encoder has width {config.vision.width}, the text encoder {config.text.width}: "
            "states of image and caption can only be concatenated at equal widths; use a ViT-B, as the paper "
            "does"
        )


def encode_context(med: MED, image_states: Tensor, captions: tuple[Tensor, Tensor]) -> tuple[CrossKV, Tensor]:
    """Keys and values of images with their captions, for the dialog encoder.

    Args:
        med: a model that passes `check_dialog_model`.
        image_states: [B, N, W].
        captions: ids and mask [B, C] of the captions, opening with [CLS].

    Returns:
        The keys and values of every layer, each [B, H, N + C, K], and the mask [B, N + C] of what they are.
    """
    ids_BC, mask_BC = captions
    states_BLW = torch.cat([image_states, med.text_states(ids_BC, mask_BC)], dim=1)
    image_BN = mask_BC.new_ones(image_states.shape[:2])
    return med.cross_kv(states_BLW, which="encoder"), torch.cat([image_BN, mask_BC], dim=1)


def encode_captions(tokenizer: Tokenizer, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, C] of the captions of images."""
    return tokenizer.encode([normalize_caption(text) for text in captions], CAPTION_TOKENS, first="cls")


def encode_dialogs(
    tokenizer: Tokenizer, dialogs: Sequence[Sequence[str]], max_tokens: int
) -> tuple[Tensor, Tensor]:
    """Ids and mask [M, T] of dialogs, padded on the right.

    A dialog that is too long loses its oldest rounds. A question that is too long loses its end, and so does
    an answer that fills a dialog alone.

    Args:
        tokenizer: the tokenizer of the model.
        dialogs: of each its texts in their order, the last two of which are the question and a candidate.
        max_tokens: longest dialog, at least 5.
    """
    texts = list(dict.fromkeys(text for dialog in dialogs for text in dialog))
    # The library needs hundreds of bytes per character, so a text is cut before it gets there.
    cut = [normalize_caption(text[: max_tokens * MAX_WORD_CHARACTERS]) for text in texts]
    encodings = tokenizer.backend.encode_batch(cut, add_special_tokens=False)
    ids_of = {text: encoding.ids for text, encoding in zip(texts, encodings, strict=True)}
    rows = [_row(tokenizer, [ids_of[text] for text in dialog], max_tokens) for dialog in dialogs]
    length = max((len(row) for row in rows), default=0)
    padded = [row + [tokenizer.pad_id] * (length - len(row)) for row in rows]
    lengths_M = torch.tensor([len(row) for row in rows], dtype=torch.long)
    ids_MT = torch.tensor(padded, dtype=torch.long).reshape(len(rows), length)
    return ids_MT, (torch.arange(length) < lengths_M[:, None]).long()


def _row(tokenizer: Tokenizer, texts: Sequence[Sequence[int]], max_tokens: int) -> list[int]:
    """The ids of one dialog, from those of its texts."""
    *history, question, answer = texts
    room = max_tokens - 1
    answer = answer[: room - 3]  # [SEP] twice, and one token of the question
    question = question[: room - len(answer) - 2]
    parts = [question, answer]
    room -= len(question) + len(answer) + 2
    for first in range(len(history) - 2, -1, -2):
        asked, answered = history[first : first + 2]
        room -= len(asked) + len(answered) + 2
        if room < 0:
            break
        parts = [asked, answered, *parts]
    return [tokenizer.enc_id, *(token for part in parts for token in (*part, tokenizer.sep_id))]
