"""A KL controller of Tetherline for a Python trainer: `tether kl control` behind one method.

    with KlControl("kl.toml") as kl:
        decision = kl.observe(step, mean_kl=5.2, var=11.0, n=512)
        beta = decision["beta"]["all"]
        if saved_checkpoint:
            kl.checkpoint(step)
        if decision["verdict"] == "rollback":
            beta = kl.rollback(restore_checkpoint())["all"]  # the next observation has the next step all the same

`mean_kl` is the mean over sequences of the log-ratio summed over the tokens of a response (nats per
sequence), `var` its variance across sequences.
"""

import json
import math
import subprocess


def finite(x):
    """JSON has no NaN: the contract writes null for a number that is not finite."""
    return float(x) if x is not None and math.isfinite(x) else None


class KlControl:
    def __init__(self, config, state=None, tether="tether"):
        command = [tether, "kl", "control", "--config", config]
        if state:
            command += ["--state", state]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def observe(self, step, mean_kl, var, n, domain="all", trial=None, **more):
        """One rollout's KL, or with `trial` (from 0) the check after an update; returns the decision.

        `more`: stderr, reward_sd, kl_old, kl_ref0.
        """
        row = {"id": domain, "mean_kl": finite(mean_kl), "var": finite(var), "n": int(n)}
        more = {k: finite(v) for k, v in more.items() if v is not None}
        phase = {} if trial is None else {"phase": "trial", "trial": int(trial)}
        return self.ask({"step": int(step), "domains": [row | more]} | phase)

    def checkpoint(self, step):
        """After the trainer has saved a checkpoint of its own; returns the steps that are kept."""
        return self.ask({"checkpoint": int(step)})["kept"]

    def rollback(self, step):
        """After the trainer has restored the checkpoint of this step; returns β by domain."""
        return self.ask({"rollback": int(step)})["beta"]

    def ask(self, line):
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"tether kl control ended with status {self.process.wait()}")
        answer = json.loads(answer)
        if "error" in answer:
            raise ValueError(answer["error"])
        if answer.get("reason", {}).get("code") == "step_backwards":
            raise ValueError(answer["reason"]["text"] + "; give the trainer's own step, which goes on after a resume")
        return answer
