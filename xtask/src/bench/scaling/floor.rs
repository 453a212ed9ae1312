//! The least time that the work can take: its floating-point operations at the rate of multiply-adds in registers, or
//! its bytes at the rate at which memory of a quarter of that footprint is read, whichever takes longer: a cache may keep a
//! part from one step to the next, and a last-level cache that other machines share gives more at some minutes than at others.
//!
//! Norms, activations, softmax, exponentials, packing and calls are free here, so the floor is below what any program
//! reaches, and a ratio against it is an upper bound.
//!
//! ```text
//! forward(rows, T, heads) = 2·trunk·rows·T + 2·head·heads·rows + 2·T²·dim·layers·rows     FLOP, causal attention
//! backward                = 2 × forward
//! AdamW                   = 28 bytes per parameter (weight, gradient, two moments read; three written)
//! decoding a token        = 4 bytes per weight, and the key/value cache of every row
//! ```

use serde_json::Value;

/// A model as far as costs go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Model {
    /// All parameters.
    pub(super) params: f64,
    /// Those in matrix products but the vocabulary head.
    pub(super) trunk: f64,
    /// Those of the head.
    pub(super) head: f64,
    pub(super) dim: f64,
    pub(super) layers: f64,
    /// Numbers per token and layer of the key/value cache.
    pub(super) kv: f64,
}

impl Model {
    /// From `model.json`.
    pub(super) fn of(about: &Value) -> Self {
        let n = |key: &str| about[key].as_f64().unwrap_or(0.0);
        let head = n("vocab") * n("dim");
        Self {
            params: n("params"),
            trunk: n("matmul_params") - head,
            head,
            dim: n("dim"),
            layers: n("layers"),
            kv: n("kv"),
        }
    }

    /// FLOP of a forward pass over rows of T tokens, `heads` logits in each.
    pub(super) fn forward(&self, rows: f64, tokens: f64, heads: f64) -> f64 {
        let attention = 2.0 * tokens * tokens * self.dim * self.layers;
        rows * (2.0 * self.trunk * tokens + 2.0 * self.head * heads + attention)
    }

    fn bytes(&self) -> f64 {
        4.0 * (self.trunk + self.head)
    }

    /// FLOP and bytes of one decoding step of `rows` rows at a context of `context` tokens.
    pub(super) fn decode(&self, rows: f64, context: f64) -> (f64, f64) {
        let cache = 2.0 * 4.0 * self.kv * self.layers * context * rows;
        let attention = 4.0 * context * self.dim * self.layers * rows;
        (2.0 * (self.trunk + self.head) * rows + attention, self.bytes() + cache)
    }
}

/// By this a footprint is divided before its bandwidth is looked up.
const KEPT: f64 = 4.0;

/// What the machine can do on some number of threads.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// FLOP/s.
    pub(super) peak: f64,
    /// (footprint, bytes per second), by footprint.
    pub(super) read: Vec<(f64, f64)>,
}

impl Machine {
    /// From what `gemm-peak` and `bandwidth` print.
    pub(super) fn of(peak: &Value, bandwidth: &Value) -> Self {
        let mut read: Vec<(f64, f64)> = bandwidth
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| {
                let kib: f64 = key.strip_prefix("read_")?.strip_suffix("_gb_s")?.parse().ok()?;
                Some((1024.0 * kib, 1e9 * value.as_f64()?))
            })
            .collect();
        read.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self { peak: 1e9 * peak["fma_gflops"].as_f64().unwrap_or(0.0), read }
    }

    /// Bytes per second from memory of a footprint: between the measured ones in proportion to the logarithm.
    pub(super) fn bandwidth(&self, bytes: f64) -> f64 {
        let above = self.read.iter().position(|(size, _)| *size >= bytes);
        match (above, self.read.last()) {
            (Some(0), _) => self.read[0].1,
            (Some(i), _) => {
                let ((a, low), (b, high)) = (self.read[i - 1], self.read[i]);
                low + (high - low) * (bytes / a).ln() / (b / a).ln()
            }
            (None, Some(last)) => last.1,
            (None, None) => f64::INFINITY,
        }
    }

    /// The highest rate at which work of a footprint may read it.
    pub(super) fn rate(&self, bytes: f64) -> f64 {
        self.bandwidth(bytes / KEPT)
    }

    fn seconds(&self, flop: f64, bytes: f64) -> f64 {
        (flop / self.peak).max(bytes / self.rate(bytes))
    }

    fn adam(&self, params: f64) -> f64 {
        28.0 * params / self.rate(28.0 * params)
    }

    /// A training step on `rows` × `tokens` tokens with loss over `heads` positions of each.
    pub(super) fn step(&self, m: &Model, rows: f64, tokens: f64, heads: f64) -> f64 {
        3.0 * m.forward(rows, tokens, heads) / self.peak + self.adam(m.params)
    }

    /// New tokens per second from `rows` rows with `new` tokens after `prompt`.
    pub(super) fn sampling(&self, m: &Model, rows: f64, prompt: f64, new: f64) -> f64 {
        rows * new / self.rollout(m, rows, prompt, new)
    }

    fn rollout(&self, m: &Model, rows: f64, prompt: f64, new: f64) -> f64 {
        let (flop, bytes) = m.decode(rows, prompt + 0.5 * new);
        m.forward(rows, prompt, 0.0) / self.peak + new * self.seconds(flop, bytes)
    }

    /// A PPO iteration of 32 prompts of 8 tokens and 64 new, 4 epochs, as the peer does it: reference, value and
    /// reward model forward once, policy and value model trained. `shared`: the value is a head of the policy.
    pub(super) fn ppo(&self, m: &Model, shared: bool) -> f64 {
        let (rows, prompt, new) = (32.0, 8.0, 64.0);
        let tokens = prompt + new;
        let trunk = m.forward(rows, tokens, 0.0) / self.peak;
        let whole = m.forward(rows, tokens, new) / self.peak;
        let scoring = whole + trunk + if shared { 0.0 } else { trunk };
        let value_step = if shared { 0.0 } else { 3.0 * trunk + self.adam(m.params) };
        let update = 4.0 * (self.step(m, rows, tokens, new) + value_step);
        self.rollout(m, rows, prompt, new) + scoring + update
    }

    /// A step of reward training on 32 pairs, 64 sequences of `tokens` tokens.
    pub(super) fn reward(&self, m: &Model, tokens: f64) -> f64 {
        self.step(m, 64.0, tokens, 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn machine() -> Machine {
        let bandwidth = json!({"read_1024_gb_s": 100.0, "read_4096_gb_s": 50.0, "threads": 2});
        Machine::of(&json!({"fma_gflops": 200.0}), &bandwidth)
    }

    #[test]
    fn bandwidth_between_two_footprints() {
        let m = machine();
        assert_eq!([1e3, 1024.0 * 1024.0, 1e9].map(|b| m.bandwidth(b)), [1e11, 1e11, 5e10]);
        assert!((m.bandwidth(2048.0 * 1024.0) - 7.5e10).abs() < 1.0);
        // What does not fit a cache whole may still keep a quarter in it.
        assert_eq!([4096.0 * 1024.0, 1e9].map(|b| m.rate(b)), [1e11, 5e10]);
    }

    /// The model M of the benchmarks: 98.9 GFLOP without attention, as `docs/performance.md` counts.
    #[test]
    fn floating_point_operations_of_a_step() {
        let layer = 4 * 288 * 288 + 3 * 288 * 768;
        let about = json!({"params": 7_155_360, "matmul_params": 6 * layer + 4096 * 288, "vocab": 4096, "dim": 288,
            "layers": 6, "kv": 288});
        let m = Model::of(&about);
        assert_eq!(m.trunk, (6 * layer) as f64);
        let attention = 3.0 * 32.0 * 2.0 * 72.0 * 72.0 * 288.0 * 6.0;
        assert!((3.0 * m.forward(32.0, 72.0, 72.0) - attention - 98.86e9).abs() < 0.01e9);
        // One row reads every weight for two operations; 32 rows do 64.
        let (flop, bytes) = m.decode(1.0, 0.0);
        assert_eq!(flop / bytes, 0.5);
        assert_eq!(m.decode(32.0, 0.0).0 / bytes, 16.0);
    }

    #[test]
    fn a_shared_trunk_costs_less_and_rows_share_the_weights() {
        let (m, machine) =
            (Model { params: 1e6, trunk: 9e5, head: 1e5, dim: 64.0, layers: 4.0, kv: 64.0 }, machine());
        assert!(machine.ppo(&m, true) < 0.6 * machine.ppo(&m, false));
        assert!(machine.sampling(&m, 8.0, 8.0, 64.0) > 3.5 * machine.sampling(&m, 1.0, 8.0, 64.0));
    }
}
