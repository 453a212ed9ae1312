"""llama.cpp in f32: tokens per second at batch 1, 8 and 32 (`llama/sampling.cpp`), once it is known to be our model.

Writes the policy as GGUF beside it. Weights of queries and keys are permuted as llama.cpp's converter does, since its
rotary embedding pairs neighbours and Hugging Face's pairs halves. Then log-probs of eight rows are set against ours.
"""

import argparse
import json
import os
import subprocess
import sys

from common import NEW, Meter, ids, peak_mib

# Log-probs of two f32 implementations with other summation orders differ by less.
LARGEST_GAP = 2e-3
VERSION = "0.3.36"


def permuted(weight, heads):
    out, inner = weight.shape
    return weight.reshape(heads, 2, out // heads // 2, inner).swapaxes(1, 2).reshape(out, inner)


def write_gguf(policy, path):
    import gguf
    from safetensors.numpy import load_file

    with open(os.path.join(policy, "config.json")) as file:
        config = json.load(file)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    rope = config.get("rope_parameters") or config
    assert config["model_type"] == "llama", config["model_type"]
    weights = load_file(os.path.join(policy, "model.safetensors"))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, weight in weights.items():
        if name.endswith("q_proj.weight"):
            weight = permuted(weight, heads)
        elif name.endswith("k_proj.weight"):
            weight = permuted(weight, kv_heads)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight.astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True, help="a directory that `ours prepare` wrote")
parser.add_argument("--threads", type=int, default=1)
args = parser.parse_args()
program = os.environ["TETHER_BENCH_LLAMA"]


def run(*arguments):
    out = subprocess.run([program, *arguments], stdout=subprocess.PIPE, stderr=sys.stderr, text=True, check=True)
    return [json.loads(line) for line in out.stdout.splitlines()]


gguf_file = os.path.join(args.model, "policy.gguf")
write_gguf(os.path.join(args.model, "policy"), gguf_file)
ours = ids(args, "rows.logprobs.jsonl")
head = os.path.join(args.model, "rows.head.jsonl")
with open(head, "w") as file:
    file.writelines(f"{json.dumps(row)}\n" for row in ids(args, "rows.ids.jsonl")[: len(ours)])
theirs = run("check", gguf_file, head, str(args.threads))
gap = max(abs(a - b) for row, other in zip(ours, theirs, strict=True) for a, b in zip(row, other, strict=True))
assert gap < LARGEST_GAP, f"llama.cpp gives other log-probs than we do: {gap}"
meter = Meter()
(numbers,) = run("time", gguf_file, os.path.join(args.model, "prompts.ids.jsonl"), str(args.threads), str(NEW))
numbers.update(
    threads=args.threads,
    foreign_cores=meter.foreign_cores(),
    peak_mib=peak_mib(),
    logprob_gap=gap,
    versions={"llama-cpp-python": VERSION},
)
print(json.dumps(numbers), flush=True)
