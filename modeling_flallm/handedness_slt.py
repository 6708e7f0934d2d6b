"""
Left-handed signers: a model that learned from right-handed ones sees them in a mirror. Which hand a signer uses can be
given, or found out from a look at both ways. All of this is ours.

A model that was trained on mirrored clips of left-handed signers has learned how clips differ from what a mirror shows
of them, `config.handedness_direction`: it finds the hand at a glance at some frames. Any other model sees all frames
both ways and begins to write: the way wins of which it is surer.
"""

from typing import Any

import torch

from .confidence_slt import mean_visual_features
from .sign_encoder_slt import SignEncoderOutput

AUTO = "auto"
# Of so many frames a glance looks at one; without it, so many tokens are written. See docs/left-handed.md.
FRAMES_PER_GLANCE = 5
TOKENS_TO_BE_SURE_OF = 8


class LeftHandedSigners:
    """Mixin for `SignTranslationModel`: clips in a mirror, and who needs one."""

    # What else `generate` takes for a quick look at a sentence.
    quick_generation: dict[str, Any] = {}

    @torch.no_grad()
    def hand_margins(self, **inputs: Any) -> torch.Tensor:
        """
        How much more a clip looks as the model expects it in a mirror, float32 `(batch,)`: above 0, the signer is
        left-handed for this model. Those of several clips of one signer may be added. With a `handedness_direction`, it
        is the difference of the mean visual tokens along it; without, that of the mean log probabilities of the first
        tokens that the model writes, greedily.

        Args:
            inputs: as of `generate`, a clip and, for a model that reads one, its prompt.

        Raises:
            ValueError: for clips that cannot be mirrored.
        """
        video = self._given_video(inputs)
        mirrored = self._mirrored(video)
        if self.config.handedness_direction is not None:
            return self._margins_at_a_glance(video, mirrored)
        return self._margins_of_sentences(self.vision_model.compute_features(**_both(video, mirrored)), inputs)

    @torch.no_grad()
    def hand_differences(self, **inputs: Any) -> torch.Tensor:
        """
        Clips as the inputs of `generate` -> `(batch, visual hidden size)`: the mean visual token of what a mirror shows
        less that of the clip, at a glance.
        """
        video = self._given_video(inputs)
        return self._differences(video, self._mirrored(video))

    def _differences(self, video: dict[str, Any], mirrored: dict[str, Any]) -> torch.Tensor:
        output = self.vision_model.tokens_at_a_glance(FRAMES_PER_GLANCE, **_both(video, mirrored))
        given, other = mean_visual_features(output).chunk(2)
        return other - given

    def _margins_at_a_glance(self, video: dict[str, Any], mirrored: dict[str, Any]) -> torch.Tensor:
        differences = self._differences(video, mirrored)
        return differences @ torch.tensor(self.config.handedness_direction, device=differences.device)

    def _margins_of_sentences(self, features: SignEncoderOutput, text_inputs: dict[str, Any]) -> torch.Tensor:
        """`features` are of the clips as they are, and then of the clips in a mirror."""
        names = (*self.prompt_input_names, *(["labels"] if self.is_prompted else []))
        prompt = {name: text_inputs[name] for name in names if text_inputs.get(name) is not None}
        output = self.generate(
            visual_features=features.last_hidden_state,
            visual_attention_mask=features.attention_mask,
            **{name: values.repeat(2, 1) for name, values in prompt.items()},
            num_beams=1,
            do_sample=False,
            num_return_sequences=1,
            max_new_tokens=TOKENS_TO_BE_SURE_OF,
            return_dict_in_generate=True,
            output_scores=True,
            **self.quick_generation,
        )
        given, other = mean_log_probabilities(self, output, self.generation_config.eos_token_id).chunk(2)
        return other - given

    def _mirrored(self, video: dict[str, Any]) -> dict[str, Any]:
        if self.vision_model.main_input_name not in video:
            raise ValueError(
                "`left_handed` mirrors a clip, but these are features of one. Mirror the video before its features "
                "are extracted."
            )
        return self.vision_model.mirrored(video)

    def features_as_right_handed(
        self, video: dict[str, Any], left_handed: bool | str | torch.Tensor, text_inputs: dict[str, Any]
    ) -> tuple[SignEncoderOutput, torch.Tensor]:
        """
        What `compute_features` of the sign encoder makes of clips, mirrored where the signer is left-handed, and
        boolean `(batch,)` where that is.

        Args:
            video: inputs of the sign encoder by name.
            left_handed: whether all signers are, "auto" to find out for each clip, or a tensor `(batch,)` with what is
                known of each.
            text_inputs: among them the prompt, for a model that reads one, as of `generate`.

        Raises:
            ValueError: for another value, and for clips that cannot be mirrored.
        """
        check_left_handed(left_handed)
        mirrored = self._mirrored(video)
        some = video[self.vision_model.main_input_name]
        if isinstance(left_handed, str):
            if self.config.handedness_direction is None:
                return self._surer_features(_both(video, mirrored), text_inputs)
            left_handed = self._margins_at_a_glance(video, mirrored) > 0
        are_left = torch.as_tensor(left_handed, device=some.device).expand(len(some))
        if are_left.all() or not are_left.any():
            chosen = mirrored if are_left.all() else video
        else:
            chosen = {
                name: torch.where(are_left.view(-1, *[1] * (values.ndim - 1)), mirrored[name], values)
                for name, values in video.items()
            }
        return self.vision_model.compute_features(**chosen), are_left

    def _as_right_handed(
        self, video: dict[str, Any], left_handed: bool | str | torch.Tensor, text_inputs: dict[str, Any]
    ) -> dict[str, Any]:
        """`video` itself for right-handed signers, else `features_as_right_handed` as inputs by name."""
        if left_handed is False:
            return video
        features, _ = self.features_as_right_handed(video, left_handed, text_inputs)
        return {"visual_features": features.last_hidden_state, "visual_attention_mask": features.attention_mask}

    def _surer_features(
        self, both: dict[str, Any], text_inputs: dict[str, Any]
    ) -> tuple[SignEncoderOutput, torch.Tensor]:
        features = self.vision_model.compute_features(**both)
        are_left = self._margins_of_sentences(features, text_inputs) > 0
        rows = torch.arange(len(are_left), device=are_left.device) + len(are_left) * are_left
        hidden, mask = features.last_hidden_state, features.attention_mask
        return SignEncoderOutput(hidden[rows.to(hidden.device)], mask[rows.to(mask.device)]), are_left


def _both(video: dict[str, Any], mirrored: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The clips as they are, and behind them the same clips in a mirror."""
    return {name: torch.cat([video[name], mirrored[name]]) for name in video}


def direction_of_hands(differences: torch.Tensor) -> list[float]:
    """
    Differences as `hand_differences` gives them, `(clips, size)`, of clips that are as the model expects them -> the
    direction along which the differences of others are positive: Fisher's linear discriminant between both ways, with a
    ridge of their mean square.
    """
    mean = differences.mean(0)
    around_it = differences - mean
    ridge = differences.square().mean() * torch.eye(len(mean), device=mean.device)
    direction = -torch.linalg.solve(around_it.T @ around_it / len(differences) + ridge, mean)
    return (direction / direction.norm()).tolist()


def mean_log_probabilities(model: Any, output: Any, end_token_ids: Any) -> torch.Tensor:
    """
    Of each sequence that a `generate` without beams, with `output_scores`, has written: the mean log probability of its
    tokens, with the first of `end_token_ids` and without what is behind it; float32 `(sequences,)`.
    """
    log_probabilities = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    tokens = output.sequences[:, -len(output.scores) :]
    ends = torch.tensor([] if end_token_ids is None else end_token_ids, device=tokens.device)
    is_end = torch.isin(tokens, ends)
    behind_the_end = is_end.cumsum(1) > is_end.long()
    return log_probabilities.float().masked_fill(behind_the_end, 0).sum(1) / (~behind_the_end).sum(1)


def check_left_handed(value: Any) -> None:
    """
    Raises:
        ValueError: unless it is True, False, "auto", or a tensor of the first two.
    """
    if not isinstance(value, bool | torch.Tensor) and value != AUTO:
        raise ValueError(f'`left_handed` must be True, False or "auto", got {value!r}.')


__all__ = ["AUTO", "LeftHandedSigners", "check_left_handed", "direction_of_hands", "mean_log_probabilities"]
