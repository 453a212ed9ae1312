"""Hugging Face `generate`: tokens per second at batch 1, 8 and 32.

Prompts of 8 tokens, 64 new tokens, temperature 1 over the whole vocabulary, no end of sequence, key/value cache,
f32. Without log-probs, which our rollout also gives.
"""

from common import NEW, Meter, arguments, ids, policy, report, seconds_of

meter = Meter()
args = arguments(__doc__)

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

model = AutoModelForCausalLM.from_pretrained(policy(args), dtype=torch.float32).eval()
prompts = torch.tensor(ids(args, "prompts.ids.jsonl"))
config = GenerationConfig(
    max_new_tokens=NEW,
    min_new_tokens=NEW,
    do_sample=True,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    pad_token_id=0,
    eos_token_id=None,
)


@torch.no_grad()
def generate(rows):
    out = model.generate(rows, attention_mask=torch.ones_like(rows), generation_config=config)
    assert out.shape[1] == rows.shape[1] + NEW, out.shape


numbers = {}
for n in (1, 8, 32):
    seconds = seconds_of(5, lambda: generate(prompts[:n]))
    numbers[f"b{n}_tok_s"] = n * NEW / seconds
report(args, meter, numbers, transformers=transformers.__version__, torch=torch.__version__)
