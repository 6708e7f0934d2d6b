"""
Left-handed signers: a model that learned from right-handed ones sees them in a mirror. Which hand a signer uses can be
given, or found out: both ways are looked at for a moment, and the surer sentence wins (ours).
"""

from typing import Any

import torch

AUTO = "auto"
# For finding out (ours, see docs/left-handed.md): of so many frames one is looked at, and so many tokens are written.
FRAMES_PER_GLANCE = 8
TOKENS_OF_A_GLANCE = 8


class LeftHandedSigners:
    """Mixin for `SignTranslationModel`: clips in a mirror, and who needs one."""

    # What else `generate` takes for a quick look at a sentence.
    quick_generation: dict[str, Any] = {}

    def hand_margins(self, **inputs: Any) -> torch.Tensor:
        """
        How much surer the model is of each clip in a mirror, float32 `(batch,)`: the difference of the mean log
        probabilities of what it begins to write, greedily, after a glance at one of eight frames. Above 0, the signer
        is left-handed for this model. Those of several clips of one signer may be added.

        Args:
            inputs: as of `generate`, a clip and, for a model that reads one, its prompt.

        Raises:
            ValueError: for clips that cannot be mirrored.
        """
        video = self._given_video(inputs)
        return self._hand_margins(video, inputs)

    @torch.no_grad()
    def _hand_margins(self, video: dict[str, Any], text_inputs: dict[str, Any]) -> torch.Tensor:
        names = (*self.prompt_input_names, *(["labels"] if self.is_prompted else []))
        prompt = {name: text_inputs[name] for name in names if text_inputs.get(name) is not None}
        mirrored = self._mirrored(video)
        both = {name: torch.cat([video[name], mirrored[name]]) for name in video}
        features = self.vision_model.glance(FRAMES_PER_GLANCE, **both)
        output = self.generate(
            visual_features=features.last_hidden_state,
            visual_attention_mask=features.attention_mask,
            **{name: values.repeat(2, 1) for name, values in prompt.items()},
            num_beams=1,
            do_sample=False,
            num_return_sequences=1,
            max_new_tokens=TOKENS_OF_A_GLANCE,
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

    def as_right_handed(
        self, video: dict[str, Any], left_handed: bool | str | torch.Tensor, text_inputs: dict[str, Any]
    ) -> tuple[dict[str, Any], torch.Tensor]:
        """
        The inputs of clips, mirrored where the signer is left-handed, and boolean `(batch,)` where that is.

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
            left_handed = self._hand_margins(video, text_inputs) > 0
        are_left = torch.as_tensor(left_handed, device=some.device).expand(len(some))
        chosen = {
            name: torch.where(are_left.view(-1, *[1] * (values.ndim - 1)), mirrored[name], values)
            for name, values in video.items()
        }
        return chosen, are_left


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


__all__ = ["AUTO", "LeftHandedSigners", "check_left_handed", "mean_log_probabilities"]
