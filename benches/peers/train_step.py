"""A training step in torch: forward, backward and AdamW on 32 rows of 72 tokens, attention by sdpa, f32.

Also the fastest product of two square f32 matrices, as the machine's practical limit.
"""

from common import Meter, arguments, ids, policy, report, seconds_of

meter = Meter()
args = arguments(__doc__)

import torch
import transformers
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(
    policy(args), dtype=torch.float32, attn_implementation="sdpa"
).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
rows = torch.tensor(ids(args, "rows.ids.jsonl"))


def step():
    logits = model(input_ids=rows, use_cache=False).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


numbers = {"step_s": seconds_of(8, step)}


def gflops(n):
    a, b = torch.randn(n, n), torch.randn(n, n)
    return 2e-9 * n**3 / seconds_of(5, lambda: torch.mm(a, b))


numbers["gemm_gflops"] = max(gflops(n) for n in (512, 768, 1024, 1536))
report(args, meter, numbers, transformers=transformers.__version__, torch=torch.__version__)
