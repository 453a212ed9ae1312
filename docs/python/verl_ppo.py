"""verl's KL-in-reward under a KL controller of Tetherline. See docs/other-trainers.md.

In a verl job, patch the trainer's function in the process that runs `RayPPOTrainer`:

    import verl.trainer.ppo.ray_trainer as ray_trainer
    ray_trainer.apply_kl_penalty = controlled(ray_trainer.apply_kl_penalty, KlControl("kl.toml", state="kl-state.json"))

Run as a program it is a small trainer on the CPU around verl's own functions:

python verl_ppo.py --model DIR --prompts prompts.jsonl --kl kl.toml [--tether PATH] [--iterations 40]
"""

import argparse
import json

import torch
from tether_kl import KlControl


def controlled(apply_kl_penalty, kl, update=0):
    """`apply_kl_penalty` with β from `kl` in place of verl's controller, already for the batch it is measured on.

    `update`: the trainer's global step at the start, so that steps go on after a resume.
    """

    def apply(data, kl_ctrl, kl_penalty="kl"):
        nonlocal update
        update += 1
        batch = data.batch
        # verl's own number is a mean per token; a target is in nats per sequence.
        ratio = (batch["old_log_probs"] - batch["ref_log_prob"]) * batch["response_mask"]
        per_sequence = ratio.sum(-1).double()
        var = per_sequence.var().item() if len(per_sequence) > 1 else None
        decision = kl.observe(update, per_sequence.mean().item(), var, len(per_sequence))
        if decision["verdict"] in ("rollback", "halt"):  # a job restores its checkpoint, then kl.rollback(its step)
            raise RuntimeError(decision["reason"]["text"])
        kl_ctrl.value = decision["beta"]["all"]
        kl_ctrl.update = lambda **_: None  # verl's law would move it once more
        data, metrics = apply_kl_penalty(data, kl_ctrl, kl_penalty)
        metrics["actor/kl_per_sequence"] = per_sequence.mean().item()
        metrics["actor/kl_decision"] = decision["reason"]["text"]
        return data, metrics

    return apply


WORDS = ("happy", "smile", "laugh", "love", "joy")


def main():
    import verl.trainer.ppo.core_algos as algos
    import verl.trainer.ppo.ray_trainer as ray_trainer
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from verl import DataProto
    from verl.workers.config import ActorConfig

    parser = argparse.ArgumentParser()
    for name in ("--model", "--prompts", "--kl"):
        parser.add_argument(name, required=True)
    parser.add_argument("--tether", default="tether")
    parser.add_argument("--iterations", type=int, default=40)
    args = parser.parse_args()

    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    load = lambda: AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    policy, reference = load().train(), load().eval()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
    prompts = [json.loads(line)["prompt"] for line in open(args.prompts)]
    length = 48

    def log_probs(model, ids, mask):
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -length - 1 : -1].float()
        return logits.log_softmax(-1).gather(-1, ids[:, -length:, None]).squeeze(-1)

    config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_mini_batch_size=64, ppo_micro_batch_size_per_gpu=64)
    gamma = type("Gamma", (dict,), {"__getattr__": dict.get})(gamma=1.0)
    kl_ctrl = algos.FixedKLController(kl_coef=0.0)
    with KlControl(args.kl, tether=args.tether) as kl:
        apply_kl_penalty = controlled(ray_trainer.apply_kl_penalty, kl)
        for iteration in range(args.iterations):
            picked = [prompts[(64 * iteration + i) % len(prompts)] for i in range(64)]
            rows = tokenizer(picked, return_tensors="pt", padding=True)
            with torch.no_grad():
                ids = policy.generate(
                    **{k: rows[k] for k in ("input_ids", "attention_mask")}, do_sample=True, temperature=1.0, top_k=0,
                    min_new_tokens=length, max_new_tokens=length, pad_token_id=tokenizer.pad_token_id,
                )
                mask = torch.cat([rows["attention_mask"], torch.ones(64, length, dtype=torch.long)], 1)
                old, ref = log_probs(policy, ids, mask), log_probs(reference, ids, mask)
            texts = tokenizer.batch_decode(ids[:, -length:], skip_special_tokens=True)
            scores = torch.tensor([float(min(5, sum(t.lower().count(w) for w in WORDS))) for t in texts])
            token_scores = torch.zeros(64, length)
            token_scores[:, -1] = scores
            data = DataProto.from_dict(tensors={
                "response_mask": torch.ones(64, length), "token_level_scores": token_scores,
                "old_log_probs": old, "ref_log_prob": ref,
            })
            data, metrics = apply_kl_penalty(data, kl_ctrl)
            advantages, _ = algos.compute_reinforce_plus_plus_outcome_advantage(
                data.batch["token_level_rewards"], data.batch["response_mask"], config=gamma
            )
            for _ in range(4):
                loss, _ = algos.compute_policy_loss_vanilla(
                    old, log_probs(policy, ids, mask), advantages, data.batch["response_mask"], config=config
                )
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
                optimizer.step()
            print(f"{iteration + 1:4} score {scores.mean():6.3f}  {metrics['actor/kl_decision']}", flush=True)


if __name__ == "__main__":
    main()
