"""Training that begins with the visual-text alignment alone."""

from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from transformers import TrainerCallback


class AlignmentWarmUp(TrainerCallback):
    """
    For the first `num_steps` steps of the optimiser a `FLaLLMForTranslation` learns nothing but to align clips with
    sentences. The Trainer's state counts the steps, so a resumed run goes on where it was.
    """

    def __init__(self, num_steps: int):
        self.num_steps = num_steps

    def on_train_begin(self, args, state, control, **kwargs):
        """
        Raises:
            ValueError: if the run ends before the warm-up.
        """
        if state.max_steps <= self.num_steps:
            raise ValueError(
                f"--alignment_warm_up_steps {self.num_steps} must be below the {state.max_steps} steps of the run: the "
                "text model would learn nothing. Lower it, or train for longer."
            )

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        model = extract_model_from_parallel(model)
        model = model.get_base_model() if isinstance(model, PeftModel) else model
        is_warming_up = state.global_step < self.num_steps
        if model.is_warming_up and not is_warming_up and state.is_world_process_zero:
            print(f"The warm-up ends after {state.global_step} steps: now the text model is trained, too.", flush=True)
        model.is_warming_up = is_warming_up
