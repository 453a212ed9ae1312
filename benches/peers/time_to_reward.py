"""TRL's PPOTrainer until its reward is 4.1 of 5 on stories260k: seconds, steps and the KL that it cost.

The reward is min(5, hits of five substrings) in 48 new tokens after one of 64 prompts of 8 tokens. 64 responses a
step, 4 epochs of one minibatch, lr 1e-4, β 0.05, temperature 1, no stop token, a separate value model that starts as
the policy with a fresh head. It ends when the mean reward of the last five steps reaches 4.1, whatever the KL is.
Seconds count from the first step on, imports and start-up not included.
"""

from common import Meter, arguments, ids, policy, report

meter = Meter()
args = arguments(__doc__)

import contextlib
import os
import sys
import tempfile
import time

import numpy
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

# The same as in benches/src/time_to_reward.rs and recipes/word-reward.toml.
WORDS, CAP = ("happy", "smile", "laugh", "love", "joy"), 5
REWARD, WINDOW, MOST_STEPS = 4.1, 5, 60
BATCH, NEW = 64, 48

seed = int(os.environ.get("TETHER_BENCH_SEED", "0"))
torch.manual_seed(seed)
numpy.random.seed(seed)
tokenizer = AutoTokenizer.from_pretrained(policy(args), padding_side="left")


def score(text):
    return float(min(CAP, sum(text.lower().count(word) for word in WORDS)))


class NoRewardModel(torch.nn.Module):
    """Stands where the trainer wants a reward model."""

    base_model_prefix = "none"

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1), requires_grad=False)


get_reward = ppo_trainer.get_reward


def reward_or_value(model, query_responses, pad, context):
    if not isinstance(model, NoRewardModel):
        return get_reward(model, query_responses, pad, context)
    texts = tokenizer.batch_decode(query_responses[:, context:], skip_special_tokens=True)
    return None, torch.tensor([score(text) for text in texts]), None


ppo_trainer.get_reward = reward_or_value


class Reached(Exception):
    """Leaves the trainer's loop, which does not look at `should_training_stop`."""


class Watch(TrainerCallback):
    def on_train_begin(self, *positional, **named):
        self.start = time.perf_counter()


watch = Watch()
seen = []


def log(metrics, *positional, **named):
    seen.append((metrics["objective/scores"], metrics["objective/kl"], time.perf_counter() - watch.start))
    if len(seen) >= WINDOW and sum(s[0] for s in seen[-WINDOW:]) / WINDOW >= REWARD:
        raise Reached


def causal():
    return AutoModelForCausalLM.from_pretrained(policy(args), dtype=torch.float32)


prompts = ids(args, "stories.ids.jsonl")
reached = False
with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=scratch,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=1,
            local_rollout_forward_batch_size=BATCH,
            num_mini_batches=1,
            num_ppo_epochs=4,
            total_episodes=BATCH * MOST_STEPS,
            response_length=NEW,
            temperature=1.0,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            kl_coef=0.05,
            num_sample_generations=0,
            save_strategy="no",
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        ),
        processing_class=tokenizer,
        model=causal(),
        ref_model=causal(),
        reward_model=NoRewardModel(),
        value_model=AutoModelForSequenceClassification.from_pretrained(
            policy(args), dtype=torch.float32, num_labels=1
        ),
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        callbacks=[watch],
    )
    trainer.log = log
    try:
        trainer.train()
    except Reached:
        reached = True

last = seen[-WINDOW:]
mean = lambda i: sum(s[i] for s in last) / len(last)
assert reached, f"{MOST_STEPS} steps only reached a reward of {mean(0):.2f}"
numbers = {
    "reached_s": seen[-1][2],
    "steps": len(seen),
    "episodes": BATCH * len(seen),
    "score": mean(0),
    "kl": mean(1),
}
report(args, meter, numbers, trl=trl.__version__, transformers=transformers.__version__, torch=torch.__version__)
