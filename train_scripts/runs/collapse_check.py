"""
Notices a model that has collapsed, and stops its training: one that writes the same sentence for nearly all clips, or
for clips the same as for noise. Small corpora do that to Uni-Sign and others; training for longer seldom helps.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from transformers import Seq2SeqTrainer, TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from ..scores.metrics import MOST_FREQUENT, comparable

# All of these are ours.
EARLIEST_SHARE_OF_TRAINING = 0.1
NUM_EVALUATIONS = 2  # in a row
LARGEST_SHARE = 0.9  # of the clips with one sentence, or with the sentence of their noise
FEWEST_CLIPS = 4  # of fewer, chance alone may give all of them one sentence
NUM_CLIPS_BESIDE_NOISE = 8  # in each process
ADVICE = (
    "Training for longer seldom helps. Start from a checkpoint that was pretrained on more clips, train the sign "
    "encoder too if it is frozen, lower --learning_rate, or get more clips; --stop_on_collapse False trains on anyway."
)


class CollapseCheck(TrainerCallback):
    """
    Judges each evaluation by generation after a tenth of the training, and stops the run after the second one in a row
    in which the model has collapsed. The model is saved as at the end of any run; then the command fails with advice.

    Args:
        trainer: the one that this is a callback of; its evaluation reports `most_frequent_prediction`.
        references: the sentences of the evaluation clips. If nearly all are the same, so may the predictions be.
    """

    def __init__(self, trainer: Seq2SeqTrainer, references: Sequence[str]):
        self.trainer = trainer
        self.num_references = len(references)
        self.most_frequent_reference = share_of_most_frequent(references)
        self._num_in_a_row = 0
        self._is_training = False

    def on_train_begin(self, args, state, control, **kwargs):
        self._num_in_a_row, self._is_training = 0, True

    def on_train_end(self, args, state, control, **kwargs):
        self._is_training = False

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if not self._is_training or state.global_step < EARLIEST_SHARE_OF_TRAINING * state.max_steps:
            return
        finding = self._finding(metrics)
        self._num_in_a_row = 0 if finding is None else self._num_in_a_row + 1
        if finding is None:
            return
        if state.is_world_process_zero:
            print(f"warning: at step {state.global_step} {finding}.", flush=True)
        if self._num_in_a_row >= NUM_EVALUATIONS:
            control.should_training_stop = True
            self.trainer.faults.append(
                f"The model has collapsed, and training was stopped at step {state.global_step} of {state.max_steps}: "
                f"in {self._num_in_a_row} evaluations in a row {finding}. {ADVICE}"
            )

    def _finding(self, metrics: dict[str, float]) -> str | None:
        """What is wrong with the predictions of an evaluation, the same in all processes."""
        share = metrics[f"eval_{MOST_FREQUENT}"]
        is_varied = self.most_frequent_reference < LARGEST_SHARE
        of_clips, of_noise = self._sentences_beside_noise()
        if is_varied and self.num_references >= FEWEST_CLIPS and share >= LARGEST_SHARE:
            (sentence, _), *_ = Counter(of_clips).most_common(1)
            return f"the model wrote one sentence for {share:.0%} of the clips, such as {sentence!r}"
        num_same, num_clips = self._over_all_processes(sum(map(str.__eq__, of_clips, of_noise)), len(of_clips))
        if num_clips >= FEWEST_CLIPS and num_same >= LARGEST_SHARE * num_clips:
            return f"the model wrote the same for noise as for the clip in {num_same} of {num_clips} clips"
        return None

    def _over_all_processes(self, *counts: int) -> list[int]:
        gathered = self.trainer.accelerator.gather(torch.tensor([counts], device=self.trainer.args.device))
        return gathered.sum(0).tolist()

    def _sentences_beside_noise(self) -> tuple[list[str], list[str]]:
        """What the model writes for a few clips, and for noise in their place."""
        of_clips: list[str] = []
        of_noise: list[str] = []
        for batch in self.trainer.get_eval_dataloader():
            inputs = self.trainer._prepare_inputs(batch)
            of_clips += self._sentences(inputs)
            of_noise += self._sentences(self._as_noise(inputs))
            if len(of_clips) >= NUM_CLIPS_BESIDE_NOISE:
                break
        return of_clips, of_noise

    def _sentences(self, inputs: dict[str, Any]) -> list[str]:
        _, token_ids, _ = self.trainer.prediction_step(self.trainer.model, inputs, prediction_loss_only=False)
        processor = self.trainer.processing_class
        token_ids = torch.where(token_ids == -100, processor.tokenizer.pad_token_id, token_ids)
        return [comparable(text) for text in processor.batch_decode(token_ids, skip_special_tokens=True)]

    def _as_noise(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """
        The inputs with the values of each frame `(batch, frames, ...)` in one random order: as large and as frequent as
        before, but no signing. Neither lengths nor masks change.
        """
        vision_model = self.trainer.accelerator.unwrap_model(self.trainer.model).vision_model
        generator = torch.Generator().manual_seed(self.trainer.args.seed)  # training draws as without this check
        noise = dict(inputs)
        for name in ("visual_features", *vision_model.input_names):
            values = inputs.get(name)
            if values is not None and values.is_floating_point():
                order = torch.randperm(values[0, 0].numel(), generator=generator).to(values.device)
                noise[name] = values.flatten(2)[..., order].view_as(values)
        return noise


def add_collapse_check(trainer: Seq2SeqTrainer, references: Sequence[str]) -> None:
    """Adds a `CollapseCheck`; a run that evaluates nothing that the model generates is told that it has none."""
    training = trainer.args
    if training.predict_with_generate and training.eval_strategy != IntervalStrategy.NO:
        trainer.add_callback(CollapseCheck(trainer, references))
    elif training.process_index == 0:
        print("--stop_on_collapse looks at evaluations of what the model generates. This run has none.", flush=True)


def share_of_most_frequent(sentences: Sequence[str]) -> float:
    """The share of the sentence that occurs most, 0 for none."""
    ((_, count),) = Counter(map(comparable, sentences)).most_common(1) or [("", 0)]
    return count / max(len(sentences), 1)
