"""TRL's RewardTrainer: median seconds of a step on 32 preference pairs.

Chosen and rejected sequences have 24 to 72 tokens, uniformly; the collator pads all 64 of a step to the longest.
12 steps, the first two not counted; f32, no gradient checkpointing, clipping at 1 (the trainer's default).
"""

from common import BATCH, REWARD_STEPS, Meter, arguments, ids, policy, report, reward

meter = Meter()
args = arguments(__doc__)

import contextlib
import statistics
import sys
import tempfile
import time

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl import RewardConfig, RewardTrainer

WARM_UP = 2


class Watch(TrainerCallback):
    """A step lasts from the end of the last one: fetching and padding the batch belong to it."""

    def __init__(self):
        self.seconds = []

    def on_train_begin(self, *positional, **named):
        self.since = time.perf_counter()

    def on_step_end(self, *positional, **named):
        now = time.perf_counter()
        self.seconds.append(now - self.since)
        self.since = now


pairs = ids(args, "pairs.ids.jsonl")[: BATCH * REWARD_STEPS]
watch = Watch()
with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
    config = RewardConfig(
        output_dir=scratch,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=BATCH,
        max_steps=REWARD_STEPS,
        learning_rate=1e-5,
        max_length=None,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(
            reward(args), dtype=torch.float32, num_labels=1
        ),
        args=config,
        processing_class=AutoTokenizer.from_pretrained(policy(args)),
        train_dataset=Dataset.from_list(pairs),
        callbacks=[watch],
    )
    trainer.train()

assert len(watch.seconds) == REWARD_STEPS, len(watch.seconds)
numbers = {"step_s": statistics.median(watch.seconds[WARM_UP:])}
report(args, meter, numbers, trl=trl.__version__, transformers=transformers.__version__, torch=torch.__version__)
