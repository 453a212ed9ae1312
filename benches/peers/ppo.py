"""TRL's PPOTrainer: seconds per iteration and their parts, start-up, peak memory.

TRL 1.12.0 is the last release with `trl.experimental.ppo`. 32 prompts of 8 tokens, 64 new tokens without a stop
token, 4 epochs of one minibatch, a separate value model that starts as the reward model, 3 updates, f32, no
gradient checkpointing, nothing saved or logged.

The parts are timed around the functions that the trainer calls: `batch_generation` is the rollout; `forward`
without gradients (the reference) and `get_reward` (values and scores) are the scoring; the rest is the update.
"""

from common import BATCH, NEW, UPDATES, Meter, arguments, ids, policy, report, reward, since_start

meter = Meter()
args = arguments(__doc__)

import contextlib
import functools
import statistics
import sys
import tempfile
import time

import torch
import transformers
import trl
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

spent = {"rollout": 0.0, "scoring": 0.0}


def timed(name, part, counts=lambda: True):
    """Replaces a function of the trainer's module by one that adds its seconds to `spent`."""
    inner = getattr(ppo_trainer, name)

    @functools.wraps(inner)
    def outer(*positional, **named):
        if not counts():
            return inner(*positional, **named)
        start = time.perf_counter()
        result = inner(*positional, **named)
        spent[part] += time.perf_counter() - start
        return result

    setattr(ppo_trainer, name, outer)


timed("batch_generation", "rollout")
timed("get_reward", "scoring")
timed("forward", "scoring", lambda: not torch.is_grad_enabled())


class Watch(TrainerCallback):
    def __init__(self):
        self.startup = None
        self.iterations = []

    def _next(self):
        spent.update(rollout=0.0, scoring=0.0)
        self.since = time.perf_counter()

    def on_train_begin(self, *positional, **named):
        self.startup = since_start()
        self._next()

    def on_step_end(self, *positional, **named):
        total = time.perf_counter() - self.since
        update = total - spent["rollout"] - spent["scoring"]
        self.iterations.append(dict(total=total, update=update, **spent))
        self._next()


def causal():
    return AutoModelForCausalLM.from_pretrained(policy(args), dtype=torch.float32)


def scalar():
    return AutoModelForSequenceClassification.from_pretrained(reward(args), dtype=torch.float32, num_labels=1)


prompts = ids(args, "prompts.ids.jsonl")[: BATCH * UPDATES]
watch = Watch()
# What the trainer prints goes to standard error: standard output is for the one line.
with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
    config = PPOConfig(
        output_dir=scratch,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=1,
        local_rollout_forward_batch_size=BATCH,
        num_mini_batches=1,
        num_ppo_epochs=4,
        total_episodes=BATCH * UPDATES,
        response_length=NEW,
        temperature=1.0,
        learning_rate=1e-5,
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    trainer = PPOTrainer(
        args=config,
        processing_class=AutoTokenizer.from_pretrained(policy(args), padding_side="left"),
        model=causal(),
        ref_model=causal(),
        reward_model=scalar(),
        value_model=scalar(),
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        callbacks=[watch],
    )
    trainer.log = lambda *positional, **named: None
    trainer.train()

assert len(watch.iterations) == UPDATES, len(watch.iterations)
parts = ["total", "rollout", "scoring", "update"]
numbers = {f"{p}_s": statistics.median(i[p] for i in watch.iterations) for p in parts}
numbers["startup_s"] = watch.startup
report(args, meter, numbers, trl=trl.__version__, transformers=transformers.__version__, torch=torch.__version__)
