"""The three losses of BLIP (arXiv 2201.12086, section 3.2): contrast, matching, language modelling.

One image forward serves three text passes, and ITM and LM read the same cross-attention keys and values of
each image wherever encoder and decoder share them.

Two things differ from the reference code, which `ObjectiveConfig.reference` turns back: pairs that show the
same image or say the same words are never negatives of one another, and contrast spans all workers' batches.
Random choices (ITM's negatives) are keyed by seed, step and row, not drawn from a generator: resuming needs
no generator's state, and n workers draw what one worker with an n times larger batch draws. (Dropout and
drop-path do use torch's global generator.)

Under DistributedDataParallel use `broadcast_buffers=False`: the queues are equal on all workers anyway.

Shape suffixes: B pairs of this worker, C candidates that a row is compared with, M texts of ITM, T tokens,
N image tokens, W image width, E joint embedding width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capfilt.models.caption_text import normalize_caption
from capfilt.models.config import ObjectiveConfig
from capfilt.models.images.pixels import normalize
from capfilt.models.keyed_random import sequence_seed
from capfilt.models.network.attention import CrossKV
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.training.collectives import (
    gather,
    gather_with_gradient,
    max_over_workers,
    sum_over_workers,
    world,
)
from capfilt.models.training.contrast import (
    Pairs,
    contrast,
    contrast_targets,
    draw_negatives,
    find_positives,
    negative_weights,
    ramp,
)
from capfilt.models.training.momentum import PairQueue, make_teacher, move_teacher


class PairBatch(TypedDict):
    """Image-text pairs of one worker's step."""

    pixels: Tensor
    """uint8 [B, 3, S, S]."""
    texts: Sequence[str]
    """B texts."""
    image_ids: Tensor
    """int64 [B]: equal for pairs of one image."""


class Objective(nn.Module):
    """The model with its losses; `state_dict` holds the momentum encoder, the queue and the step as well.

    Args:
        med: the model to train, with the parts that the losses need.
        tokenizer: of the model's vocabulary.
        config: the losses.
        seed: of the draws of ITM's negatives.

    Raises:
        ValueError: the model lacks a part that a loss needs.
    """

    def __init__(self, med: MED, tokenizer: Tokenizer, config: ObjectiveConfig, seed: int = 0) -> None:
        super().__init__()
        self._check_parts(med, config)
        self.med = med
        self.tokenizer = tokenizer
        self.config = config
        self.step = 0
        prompt, _ = tokenizer.encode([config.prompt], config.max_tokens, first="dec", sep=False)
        self._given = prompt.shape[1]  # tokens before the first predicted one: 4 for "a picture of "
        self._draws = sequence_seed(seed, 0, "negatives of ITM", 0)
        self.teacher: MED | None = None
        self.queue: PairQueue | None = None
        if "itc" in config.losses and config.queue_size:
            self.teacher = make_teacher(med)
            self.queue = PairQueue(config.queue_size, med.config.embed_dim)

    @staticmethod
    def _check_parts(med: MED, config: ObjectiveConfig) -> None:
        contrasts = "itc" in config.losses or "itm" in config.losses
        if (contrasts and not med.has_encoder) or ("lm" in config.losses and not med.has_decoder):
            raise ValueError(
                f'losses {", ".join(config.losses)} cannot train a "{med.config.parts}": itc and itm need '
                'parts "pretrain" or "filter", lm needs "pretrain" or "captioner"'
            )

    def forward(self, batch: PairBatch, epoch: float = float("inf")) -> dict[str, Tensor]:
        """The losses of one batch; in training mode the queue and the step move on.

        Every worker's batch must have the same B. The mean over workers of each value is the value over all
        pairs; so is the gradient that DistributedDataParallel makes of it.

        Args:
            batch: the pairs.
            epoch: epochs done so far, as a fraction; only the ramp of `alpha` reads it.

        Returns:
            Scalars: "loss" (to differentiate), the losses by name, and "itm_accuracy", "temperature".
        """
        wanted = self.config.losses
        texts = [normalize_caption(text, self.config.max_words) for text in batch["texts"]]
        pixels = normalize(batch["pixels"], device=next(self.med.parameters()).device)
        states_BNW = self.med.encode_image(pixels)
        losses: dict[str, Tensor] = {}
        facts: dict[str, Tensor] = {}
        kv: CrossKV | None = None
        if "itc" in wanted or "itm" in wanted:
            self._clamp_temperature()
            encoded = self.tokenizer.encode(texts, self.config.max_tokens, first="cls")
            ids_BT, mask_BT = (x.to(states_BNW.device) for x in encoded)
            pairs = self._pairs(states_BNW, ids_BT, mask_BT, texts, batch["image_ids"])
            if "itc" in wanted:
                losses["itc"] = self._itc(pairs, pixels, ids_BT, mask_BT, epoch)
                facts["temperature"] = self.med.temp.detach().clone()
            if "itm" in wanted:
                losses["itm"], facts["itm_accuracy"], kv = self._itm(pairs, states_BNW, ids_BT, mask_BT)
        if "lm" in wanted:
            if kv is None or not self.med.shares_cross_kv:
                kv = self.med.cross_kv(states_BNW, which="decoder")
            losses["lm"] = self._lm(texts, kv)
        if self.training:
            self.step += 1
        loss = torch.stack(list(losses.values())).sum()
        return {"loss": loss, **{name: value.detach() for name, value in losses.items()}, **facts}

    def update_momentum(self) -> None:
        """Move the momentum encoder; to be called once after every optimizer step."""
        if self.teacher is not None:
            move_teacher(self.teacher, self.med, self.config.momentum)

    def train(self, mode: bool = True) -> Objective:
        """As nn.Module; the momentum encoder stays in evaluation mode unless `teacher_dropout`."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.train(mode and self.config.teacher_dropout)
        return self

    def get_extra_state(self) -> dict[str, int]:
        """The step, which keys the draws."""
        return {"step": self.step}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` gave."""
        self.step = int(state["step"])

    # ---- image-text contrast

    def _pairs(
        self, states_BNW: Tensor, ids_BT: Tensor, mask_BT: Tensor, texts: list[str], image_ids_B: Tensor
    ) -> Pairs:
        text_ids_B = torch.tensor([_text_id(text) for text in texts])
        return Pairs(
            self.med.image_feature(states_BNW),
            self.med.text_feature(ids_BT, mask_BT),
            image_ids_B.to(states_BNW.device),
            text_ids_B.to(states_BNW.device),
        )

    @torch.no_grad()
    def _clamp_temperature(self) -> None:
        self.med.temp.clamp_(self.config.temp_min, self.config.temp_max)

    def _itc(self, own: Pairs, pixels: Tensor, ids_BT: Tensor, mask_BT: Tensor, epoch: float) -> Tensor:
        teacher = self._teach(own, pixels, ids_BT, mask_BT)
        candidates, offset = self._candidates(own, teacher)
        positive_BC = find_positives(own, candidates, offset, self.config.positives)
        alpha = self.config.alpha * ramp(epoch, self.config.alpha_ramp_epochs)
        temp = self.med.temp
        total = positive_BC.new_zeros((), dtype=torch.float32)
        with torch.autocast(pixels.device.type, enabled=False):  # a cosine / 0.07 is beyond bf16
            for asks, answers in ((0, 1), (1, 0)):  # image to text, text to image
                soft_BC = None
                if teacher is not None:
                    soft_BC = teacher[asks] @ candidates[answers].detach().T / temp.detach()
                targets_BC = contrast_targets(positive_BC, soft_BC, alpha)
                total = total + contrast(own[asks] @ candidates[answers].T / temp, targets_BC) / 2
        return total

    @torch.no_grad()
    def _teach(self, own: Pairs, pixels: Tensor, ids_BT: Tensor, mask_BT: Tensor) -> Pairs | None:
        if self.teacher is None:
            return None
        image_BE = self.teacher.image_feature(self.teacher.encode_image(pixels))
        return own._replace(image_BE=image_BE, text_BE=self.teacher.text_feature(ids_BT, mask_BT))

    def _candidates(self, own: Pairs, teacher: Pairs | None) -> tuple[Pairs, int]:
        """What ITC compares with, and which of it is the first own pair."""
        spread = self.config.contrast_all_workers
        offset = world()[0] * len(own.image_ids_B) if spread else 0
        if teacher is None or self.queue is None:
            if not spread:
                return own, 0
            features = gather_with_gradient(own.image_BE), gather_with_gradient(own.text_BE)
            return Pairs(*features, gather(own.image_ids_B), gather(own.text_ids_B)), offset
        everywhere = Pairs(*(gather(part) for part in teacher))
        now = everywhere if spread else teacher
        candidates = Pairs(*(torch.cat(both) for both in zip(now, self.queue.read(), strict=True)))
        if self.training:
            self.queue.push(everywhere)
        return candidates, offset

    # ---- image-text matching

    def _itm(
        self, own: Pairs, states_BNW: Tensor, ids_BT: Tensor, mask_BT: Tensor
    ) -> tuple[Tensor, Tensor, CrossKV]:
        """The loss, the accuracy, and the keys and values of the B images."""
        workers = world()[1]
        pairs_count, device = ids_BT.shape[0], ids_BT.device
        image_B, text_B, valid_2B = self._negatives(own)
        everywhere_ids, everywhere_mask = ids_BT, mask_BT
        images_M = torch.arange(pairs_count, device=device)
        if self.config.negative_all_rank and workers > 1:
            everywhere_ids, everywhere_mask = self._gather_texts(ids_BT, mask_BT)
            ids_BT, mask_BT = (F.pad(x, (0, everywhere_ids.shape[1] - x.shape[1])) for x in (ids_BT, mask_BT))
            states_BNW = torch.cat([states_BNW, gather_with_gradient(states_BNW)[image_B]])
            image_B = images_M + pairs_count
        kv = self.med.cross_kv(states_BNW, which="encoder")
        # Matched pairs, then each text with a wrong image, then each image with a wrong text.
        ids_MT = torch.cat([ids_BT, ids_BT, everywhere_ids[text_B]])
        ids_MT[:, 0] = self.tokenizer.enc_id
        mask_MT = torch.cat([mask_BT, mask_BT, everywhere_mask[text_B]])
        logits_M2 = self.med.match(ids_MT, mask_MT, kv, torch.cat([images_M, image_B, images_M]))
        labels_M = torch.arange(3 * pairs_count, device=device).lt(pairs_count).long()
        weight_M = torch.cat([valid_2B.new_ones(pairs_count), valid_2B]).float()
        weight_M = weight_M * workers / sum_over_workers(weight_M.sum())
        loss = (F.cross_entropy(logits_M2, labels_M, reduction="none") * weight_M).sum()
        accuracy = ((logits_M2.detach().argmax(dim=1) == labels_M) * weight_M).sum()
        return loss, accuracy, [(key[:pairs_count], value[:pairs_count]) for key, value in kv]

    @torch.no_grad()
    def _negatives(self, own: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """For each text a wrong image [B], for each image a wrong text [B], and which of both exist [2B]."""
        spread = self.config.negative_all_rank
        candidates = Pairs(*(gather(part) for part in own)) if spread else own
        first = world()[0] * len(own.image_ids_B)
        positive_BC = find_positives(own, candidates, first if spread else 0, self.config.positives)
        rows_B = torch.arange(first, first + len(own.image_ids_B), device=positive_BC.device)
        drawn = []
        with torch.autocast(positive_BC.device.type, enabled=False):
            for asks, answers in ((1, 0), (0, 1)):
                logits_BC = own[asks] @ candidates[answers].T / self.med.temp
                weights_BC = negative_weights(logits_BC, positive_BC, self.config.negative_floor)
                drawn.append(draw_negatives(weights_BC, self._draws + 2 * rows_B + answers, self.step))
        (image_B, image_valid_B), (text_B, text_valid_B) = drawn
        return image_B, text_B, torch.cat([image_valid_B, text_valid_B])

    def _gather_texts(self, ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        longest = max_over_workers(ids_BT.shape[1], ids_BT.device)
        room = (0, longest - ids_BT.shape[1])
        ids = F.pad(ids_BT, room, value=self.tokenizer.pad_id)
        return gather(ids), gather(F.pad(mask_BT, room))

    # ---- language modelling

    def _lm(self, texts: list[str], kv: CrossKV) -> Tensor:
        device = kv[0][0].device
        captions = [self.config.prompt + text for text in texts]
        ids_BT, mask_BT = self.tokenizer.encode(captions, self.config.max_tokens, first="dec")
        predicted_BT = mask_BT.bool()
        predicted_BT[:, : self._given] = False
        # Positions are picked on the host, where the mask is: the vocabulary projection then skips the rest.
        where_P = predicted_BT[:, 1:].flatten().nonzero()[:, 0].to(device)
        inputs_BT, targets_BT = ids_BT[:, :-1].to(device), ids_BT[:, 1:].to(device)
        states_BTD = self.med.decode_states(inputs_BT, kv)
        logits_PV = self.med.lm_logits(states_BTD.flatten(0, 1)[where_P]).float()
        total = F.cross_entropy(
            logits_PV,
            targets_BT.flatten()[where_P],
            reduction="sum",
            label_smoothing=self.config.label_smoothing,
        )
        return total * world()[1] / sum_over_workers(total.new_tensor(max(len(where_P), 1)))


def _text_id(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
