"""
Fine-tune a model of either system with nothing of `train_scripts`: transformers' own Trainer, and our collator.

    python docs/train_without_our_scripts.py quickstart_output/model quickstart_output/corpus fine_tuned
"""

import sys

import sacrebleu
from datasets import Video, load_dataset
from transformers import AutoModel, AutoProcessor, Seq2SeqTrainer, Seq2SeqTrainingArguments

from modeling_flallm import DataCollatorForSignTranslation

model_folder, corpus, output_dir = sys.argv[1:]
model, processor = AutoModel.from_pretrained(model_folder), AutoProcessor.from_pretrained(model_folder)
model.freeze_visual_encoder()
clips = load_dataset("videofolder", data_dir=corpus).cast_column("video", Video(decode=False))


def compute_metrics(prediction):
    hypotheses, references = (processor.batch_decode(ids) for ids in (prediction.predictions, prediction.label_ids))
    return {"bleu": sacrebleu.corpus_bleu(hypotheses, [references]).score}


# The collator needs the columns of the data set, so the Trainer must not remove them.
args = Seq2SeqTrainingArguments(
    output_dir, eval_strategy="epoch", predict_with_generate=True, generation_max_length=60, remove_unused_columns=False
)
trainer = Seq2SeqTrainer(
    model=model,
    args=args,
    data_collator=DataCollatorForSignTranslation(processor),
    train_dataset=clips["train"],
    eval_dataset=clips["validation"],
    processing_class=processor,
    compute_metrics=compute_metrics,
)
trainer.train()
trainer.save_model()
