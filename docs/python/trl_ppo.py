"""TRL's PPOTrainer under a KL controller of Tetherline. See docs/other-trainers.md.

python trl_ppo.py --model DIR --prompts prompts.jsonl --kl kl.toml [--tether PATH] [--iterations 40]
"""

import argparse
import json

import torch
import trl.experimental.ppo.ppo_trainer as ppo
from datasets import Dataset
from tether_kl import KlControl
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer

WORDS = ("happy", "smile", "laugh", "love", "joy")


class ControlledPPOTrainer(PPOTrainer):
    """Sets `kl_coef` from the KL of every rollout; TRL reads it anew in the next one."""

    def __init__(self, *args, kl, **kwargs):
        super().__init__(*args, **kwargs)
        self.kl = kl
        self.update = 0

    def log(self, logs, *args, **kwargs):
        if "objective/kl" in logs:
            self.update += 1
            kl = logs["objective/kl"]
            # TRL logs the mean alone. Along the tilt of the reference the log-ratio has variance 2·KL.
            decision = self.kl.observe(self.update, kl, 2 * max(kl, 0.0), self.args.batch_size)
            if decision["verdict"] in ("rollback", "halt"):  # this trainer saves no checkpoint to return to
                raise RuntimeError(decision["reason"]["text"])
            self.args.kl_coef = decision["beta"]["all"]
            print(f"{self.update:4} score {logs['objective/scores']:6.3f}  {decision['reason']['text']}", flush=True)
        return super().log(logs, *args, **kwargs)


class WordReward(torch.nn.Module):
    """Stands in for a reward model: counts happy words, at most five."""

    base_model_prefix = "none"

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1), requires_grad=False)


def main():
    parser = argparse.ArgumentParser()
    for name in ("--model", "--prompts", "--kl"):
        parser.add_argument(name, required=True)
    parser.add_argument("--tether", default="tether")
    parser.add_argument("--iterations", type=int, default=40)
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    theirs = ppo.get_reward

    def get_reward(model, tokens, pad, start):
        if not isinstance(model, WordReward):
            return theirs(model, tokens, pad, start)
        texts = tokenizer.batch_decode(tokens[:, start:], skip_special_tokens=True)
        counts = [min(5, sum(t.lower().count(w) for w in WORDS)) for t in texts]
        return None, torch.tensor(counts, dtype=torch.float32), None

    ppo.get_reward = get_reward
    prompts = [json.loads(line)["prompt"] for line in open(args.prompts)]
    ids = [tokenizer(p)["input_ids"] for p in prompts]
    config = PPOConfig(
        output_dir="trl-out", report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False,
        per_device_train_batch_size=64, gradient_accumulation_steps=1, num_mini_batches=1, num_ppo_epochs=4,
        total_episodes=64 * args.iterations, response_length=48, temperature=1.0, learning_rate=1e-4,
        lr_scheduler_type="constant", local_rollout_forward_batch_size=64, save_strategy="no",
        num_sample_generations=0, logging_steps=1, disable_tqdm=True, seed=1,
    )
    load = lambda kind, **k: kind.from_pretrained(args.model, dtype=torch.float32, **k)
    with KlControl(args.kl, tether=args.tether) as kl:
        ControlledPPOTrainer(
            args=config, processing_class=tokenizer, kl=kl, model=load(AutoModelForCausalLM),
            ref_model=load(AutoModelForCausalLM), reward_model=WordReward(),
            value_model=load(AutoModelForSequenceClassification, num_labels=1),
            train_dataset=Dataset.from_dict({"input_ids": ids}),
        ).train()


if __name__ == "__main__":
    main()
