"""The three losses of BLIP (arXiv 2201.12086, section 3.2): contrast (ITC), matching (ITM), language modeling
(LM).

The image encoder runs once for three text passes. ITM and LM use the same cross-attention keys and values if
encoder and decoder share them.

Two differences from the reference code can be reverted with `ObjectiveConfig.reference`: pairs with the same
image or the same text are never negatives of each other, and ITC contrasts with the batches of all workers.
Random choices (ITM's negatives) depend on seed, step and row instead of the state of a generator. Resuming
needs no generator state, and n workers draw the same negatives as one worker with an n times larger batch.
(Dropout and drop-path use torch's global generator.)

With several workers, average the gradients over the workers (`collectives.parallelize`). The queues of all
workers stay equal without synchronization.

Shape suffixes: B pairs of this worker, C candidates of ITC, M texts of ITM, T tokens, P predicted tokens,
N image tokens, W image width, D text width, E embedding dimension.
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
    alpha_ramp,
    contrast_targets,
    contrastive_loss,
    draw_negatives,
    find_positives,
    negative_weights,
)
from capfilt.models.training.language_loss import token_losses
from capfilt.models.training.momentum import PairQueue, make_teacher, update_teacher


class PairBatch(TypedDict):
    """The image-text pairs of a worker for one step."""

    pixels: Tensor
    """uint8 [B, 3, S, S]."""
    texts: Sequence[str]
    """B texts."""
    image_ids: Tensor
    """int64 [B]: equal for pairs with the same image."""


class Objective(nn.Module):
    """The model with its losses. `state_dict` includes the momentum encoder (`teacher`), the queue and the
    step.

    Args:
        med: the model to train, with the parts that the losses need.
        tokenizer: the tokenizer of the model.
        config: the losses.
        seed: seed of the draws of ITM's negatives.

    Raises:
        ValueError: the model lacks a part that a loss needs.
    """

    def __init__(self, med: MED, tokenizer: Tokenizer, config: ObjectiveConfig, seed: int = 0) -> None:
        super().__init__()
        self.check_parts(med, config)
        self.med = med
        self.tokenizer = tokenizer
        self.config = config
        self.step = 0
        prompt, _ = tokenizer.encode([config.prompt], config.max_tokens, first="dec", sep=False)
        self._prompt_length = prompt.shape[1]  # tokens before the first predicted one: 4 for "a picture of "
        self._negatives_seed = sequence_seed(seed, 0, "negatives of ITM", 0)
        self.teacher: MED | None = None
        self.queue: PairQueue | None = None
        if "itc" in config.losses and config.queue_size:
            self.teacher = make_teacher(med)
            self.queue = PairQueue(config.queue_size, med.config.embed_dim)

    def forward(self, batch: PairBatch, epoch: float = float("inf")) -> dict[str, Tensor]:
        """The losses of a batch. In training mode the queue and the step advance.

        The batches of all workers must have the same B. The mean of a result over the workers is its value
        over all pairs, and the mean of the gradients is the gradient over all pairs.

        Args:
            batch: the pairs.
            epoch: epochs completed so far, a fraction; used only for the ramp of `alpha`.

        Returns:
            Scalars: "loss" (to differentiate), each loss by name, "itm_accuracy", "temperature".
        """
        names = self.config.losses
        texts = [normalize_caption(text, self.config.max_words) for text in batch["texts"]]
        pixels = normalize(batch["pixels"], device=next(self.med.parameters()).device)
        states_BNW = self.med.encode_image(pixels)
        losses: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        kv: CrossKV | None = None
        if "itc" in names or "itm" in names:
            self._clamp_temperature()
            encoded = self.tokenizer.encode(texts, self.config.max_tokens, first="cls")
            ids_BT, mask_BT = (x.to(states_BNW.device) for x in encoded)
            own = self._encode_pairs(states_BNW, ids_BT, mask_BT, texts, batch["image_ids"])
            if "itc" in names:
                losses["itc"] = self._itc(own, pixels, ids_BT, mask_BT, epoch)
                metrics["temperature"] = self.med.temp.detach().clone()
            if "itm" in names:
                losses["itm"], metrics["itm_accuracy"], kv = self._itm(own, states_BNW, ids_BT, mask_BT)
        if "lm" in names:
            if kv is None or not self.med.shares_cross_kv:
                kv = self.med.cross_kv(states_BNW, which="decoder")
            losses["lm"] = self._lm(texts, kv)
        if self.training:
            self.step += 1
        loss = torch.stack(list(losses.values())).sum()
        return {"loss": loss, **{name: value.detach() for name, value in losses.items()}, **metrics}

    @staticmethod
    def check_parts(med: MED, config: ObjectiveConfig) -> None:
        """Check that a model has the parts that the losses need.

        Raises:
            ValueError: it lacks one.
        """
        needs_encoder = "itc" in config.losses or "itm" in config.losses
        if (needs_encoder and not med.has_encoder) or ("lm" in config.losses and not med.has_decoder):
            raise ValueError(
                f'losses {", ".join(config.losses)} cannot train a "{med.config.parts}": itc and itm need '
                'parts "pretrain" or "filter", lm needs "pretrain" or "captioner"'
            )

    def update_momentum(self) -> None:
        """Update the momentum encoder; call it once after every optimizer step."""
        if self.teacher is not None:
            update_teacher(self.teacher, self.med, self.config.momentum)

    def train(self, mode: bool = True) -> Objective:
        """Like `nn.Module.train`, but the momentum encoder stays in eval mode unless `teacher_dropout`."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.train(mode and self.config.teacher_dropout)
        return self

    def get_extra_state(self) -> dict[str, int]:
        """The step, on which the random draws depend."""
        return {"step": self.step}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the result of `get_extra_state`."""
        self.step = int(state["step"])

    # ---- image-text contrast

    def _encode_pairs(
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
        teacher = self._encode_by_teacher(own, pixels, ids_BT, mask_BT)
        candidates, offset = self._itc_candidates(own, teacher)
        positive_BC = find_positives(own, candidates, offset, self.config.positives)
        alpha = self.config.alpha * alpha_ramp(epoch, self.config.alpha_ramp_epochs)
        temp = self.med.temp
        total = positive_BC.new_zeros((), dtype=torch.float32)
        with torch.autocast(pixels.device.type, enabled=False):  # bfloat16 is too coarse for cosine / 0.07
            for query, other in ((0, 1), (1, 0)):  # indices of Pairs: image to text, text to image
                soft_BC = None
                if teacher is not None:
                    soft_BC = teacher[query] @ candidates[other].detach().T / temp.detach()
                targets_BC = contrast_targets(positive_BC, soft_BC, alpha)
                total = total + contrastive_loss(own[query] @ candidates[other].T / temp, targets_BC) / 2
        return total

    @torch.no_grad()
    def _encode_by_teacher(self, own: Pairs, pixels: Tensor, ids_BT: Tensor, mask_BT: Tensor) -> Pairs | None:
        if self.teacher is None:
            return None
        image_BE = self.teacher.image_feature(self.teacher.encode_image(pixels))
        return own._replace(image_BE=image_BE, text_BE=self.teacher.text_feature(ids_BT, mask_BT))

    def _itc_candidates(self, own: Pairs, teacher: Pairs | None) -> tuple[Pairs, int]:
        """The pairs to contrast with, and the position of the first own pair among them."""
        all_workers = self.config.contrast_all_workers
        offset = world()[0] * len(own.image_ids_B) if all_workers else 0
        if teacher is None or self.queue is None:
            if not all_workers:
                return own, 0
            features = gather_with_gradient(own.image_BE), gather_with_gradient(own.text_BE)
            return Pairs(*features, gather(own.image_ids_B), gather(own.text_ids_B)), offset
        gathered = Pairs(*(gather(part) for part in teacher))
        current = gathered if all_workers else teacher
        candidates = Pairs(*(torch.cat(both) for both in zip(current, self.queue.read(), strict=True)))
        if self.training:
            self.queue.push(gathered)
        return candidates, offset

    # ---- image-text matching

    def _itm(
        self, own: Pairs, states_BNW: Tensor, ids_BT: Tensor, mask_BT: Tensor
    ) -> tuple[Tensor, Tensor, CrossKV]:
        """The loss, the accuracy, and the cross-attention keys and values of the B images."""
        workers = world()[1]
        pairs_count, device = ids_BT.shape[0], ids_BT.device
        image_B, text_B, valid_2B = self._draw_itm_negatives(own)
        candidate_ids, candidate_mask = ids_BT, mask_BT
        images_B = torch.arange(pairs_count, device=device)
        if self.config.negative_all_rank and workers > 1:
            candidate_ids, candidate_mask = self._gather_texts(ids_BT, mask_BT)
            padding = (0, candidate_ids.shape[1] - ids_BT.shape[1])
            ids_BT, mask_BT = F.pad(ids_BT, padding), F.pad(mask_BT, padding)
            states_BNW = torch.cat([states_BNW, gather_with_gradient(states_BNW)[image_B]])
            image_B = images_B + pairs_count
        kv = self.med.cross_kv(states_BNW, which="encoder")
        # The positive pairs, then each text with a negative image, then each image with a negative text.
        ids_MT = torch.cat([ids_BT, ids_BT, candidate_ids[text_B]])
        ids_MT[:, 0] = self.tokenizer.enc_id
        mask_MT = torch.cat([mask_BT, mask_BT, candidate_mask[text_B]])
        logits_M2 = self.med.match(ids_MT, mask_MT, kv, torch.cat([images_B, image_B, images_B]))
        labels_M = torch.arange(3 * pairs_count, device=device).lt(pairs_count).long()
        weight_M = torch.cat([valid_2B.new_ones(pairs_count), valid_2B]).float()
        weight_M = weight_M * workers / sum_over_workers(weight_M.sum())
        loss = (F.cross_entropy(logits_M2, labels_M, reduction="none") * weight_M).sum()
        accuracy = ((logits_M2.detach().argmax(dim=1) == labels_M) * weight_M).sum()
        return loss, accuracy, [(key[:pairs_count], value[:pairs_count]) for key, value in kv]

    @torch.no_grad()
    def _draw_itm_negatives(self, own: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """A negative image for each text [B], a negative text for each image [B], and which of both exist
        [2B]."""
        all_workers = self.config.negative_all_rank
        candidates = Pairs(*(gather(part) for part in own)) if all_workers else own
        first = world()[0] * len(own.image_ids_B)
        positive_BC = find_positives(own, candidates, first if all_workers else 0, self.config.positives)
        rows_B = torch.arange(first, first + len(own.image_ids_B), device=positive_BC.device)
        draws = []
        with torch.autocast(positive_BC.device.type, enabled=False):
            for query, other in ((1, 0), (0, 1)):  # indices of Pairs: text to image, image to text
                logits_BC = own[query] @ candidates[other].T / self.med.temp
                weights_BC = negative_weights(logits_BC, positive_BC, self.config.negative_floor)
                draws.append(draw_negatives(weights_BC, self._negatives_seed + 2 * rows_B + other, self.step))
        (image_B, image_valid_B), (text_B, text_valid_B) = draws
        return image_B, text_B, torch.cat([image_valid_B, text_valid_B])

    def _gather_texts(self, ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        longest = max_over_workers(ids_BT.shape[1], ids_BT.device)
        padding = (0, longest - ids_BT.shape[1])
        ids = F.pad(ids_BT, padding, value=self.tokenizer.pad_id)
        return gather(ids), gather(F.pad(mask_BT, padding))

    # ---- language modeling

    def _lm(self, texts: list[str], kv: CrossKV) -> Tensor:
        device = kv[0][0].device
        captions = [self.config.prompt + text for text in texts]
        ids_BT, mask_BT = self.tokenizer.encode(captions, self.config.max_tokens, first="dec")
        predicted_BT = mask_BT.bool()
        predicted_BT[:, : self._prompt_length] = False
        # Select positions on the host, where the mask is, so that only they go through the vocabulary
        # projection.
        positions_P = predicted_BT[:, 1:].flatten().nonzero()[:, 0].to(device)
        inputs_BT, targets_BT = ids_BT[:, :-1].to(device), ids_BT[:, 1:].to(device)
        states_BTD = self.med.decode_states(inputs_BT, kv)
        states_PD, targets_P = states_BTD.flatten(0, 1)[positions_P], targets_BT.flatten()[positions_P]
        smoothing = self.config.label_smoothing
        total = token_losses(self.med.lm_logits, states_PD, targets_P, smoothing).sum()
        return total * world()[1] / sum_over_workers(total.new_tensor(max(len(positions_P), 1)))


def _text_id(text: str) -> int:
    """A 64-bit hash of a text, the same on every worker."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
