"""What every peer script shares: arguments, threads, the clock, foreign CPU load, peak memory, the line of JSON.

Import it before torch: the number of threads has to be in the environment by then. A model directory is one that
`ours prepare` wrote: `policy/`, `reward/`, and token ids in `*.ids.jsonl`.
"""

import argparse
import json
import os
import statistics
import time

_ENTERED = time.time()

# Sizes of the work; the same as in benches/src/lib.rs.
BATCH = 32
PROMPT = 8
NEW = 64
UPDATES = 3
REWARD_STEPS = 12


def since_start():
    """Seconds since whoever started this process started it (the start of the interpreter included)."""
    started = os.environ.get("TETHER_BENCH_STARTED_NS")
    return time.time() - (int(started) * 1e-9 if started else _ENTERED)


def _busy():
    """CPU seconds of everyone: user nice system irq softirq steal."""
    with open("/proc/stat") as file:
        ticks = [int(t) for t in file.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def _own():
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


class Meter:
    """Cores that other processes kept busy while a piece of work lasted, on average."""

    def __init__(self):
        self.known = os.path.exists("/proc/stat")
        if self.known:
            self.before = (time.perf_counter(), _busy(), _own())

    def foreign_cores(self):
        if not self.known:
            return None
        start, busy, own = self.before
        others = (_busy() - busy) - (_own() - own)
        return max(0.0, others / (time.perf_counter() - start))


def peak_mib():
    """Peak resident memory so far, MiB."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None


def arguments(about):
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--model", required=True, help="a directory that `ours prepare` wrote")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    os.environ.update(
        OMP_NUM_THREADS=str(args.threads),
        MKL_NUM_THREADS=str(args.threads),
        CUDA_VISIBLE_DEVICES="",
        HF_HUB_OFFLINE="1",
        HF_DATASETS_DISABLE_PROGRESS_BARS="1",
        TOKENIZERS_PARALLELISM="false",
        TRL_EXPERIMENTAL_SILENCE="1",
    )
    import warnings

    warnings.filterwarnings("ignore")
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return args


def policy(args):
    return os.path.join(args.model, "policy")


def reward(args):
    return os.path.join(args.model, "reward")


def ids(args, name):
    with open(os.path.join(args.model, name)) as file:
        return [json.loads(line) for line in file]


def seconds_of(times, work):
    """Median seconds of `work`, run once to warm up and then at least `times` times and 0.5 s."""
    work()
    start, seconds = time.perf_counter(), []
    while len(seconds) < times or time.perf_counter() - start < 0.5:
        before = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - before)
    return statistics.median(seconds)


def report(args, meter, numbers, **versions):
    numbers.update(
        threads=args.threads,
        foreign_cores=meter.foreign_cores(),
        peak_mib=peak_mib(),
        versions=versions,
    )
    print(json.dumps(numbers), flush=True)
