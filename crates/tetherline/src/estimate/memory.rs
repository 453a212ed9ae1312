//! Peak memory of each stage as a sum of named parts.
//!
//! A stage is taken at the moment when most is alive. The engine's workspaces and gradients outlive the stage that made them,
//! so a whole run of a small model carries them on. A large one gives back what only one kind of work needs when another
//! begins, and frozen models give back their panels while others are trained: of its PPO the largest of three moments counts.

use super::Ground;
use super::models::{Models, Reference};
use crate::recipe::{Dtype, Recipe};
use serde::Serialize;
use tetherline_core::Stage;
use tetherline_models::{ModelShape, Precision, RowSize};
use tetherline_rollout::{Batches, SamplingConfig};

/// A named part of a peak.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it is.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
}

/// What a stage holds when it holds most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StageMemory {
    /// Which.
    #[serde(serialize_with = "super::name")]
    pub stage: Stage,
    /// Of all parts, bytes.
    pub peak: u64,
    /// Largest first.
    pub parts: Vec<Part>,
}

/// Buffers of the engine: the largest that any stage until now has asked for.
#[derive(Clone, Copy, Default)]
struct Pools {
    /// Of the models that are run first, for each thread: forward alone, and what training adds.
    forward: usize,
    step: usize,
    /// Of the reference, for each thread.
    second: usize,
    /// Bytes of a gradient, and how many there are: the sum and what is not added to it yet.
    gradient: usize,
    gradients: usize,
    threads: usize,
    training: usize,
    /// Of the encoder that needs most, however many threads.
    encoder: usize,
    /// What each thread rounds to bf16 on the way forward, and what the way back adds.
    rounded: usize,
    rounded_back: usize,
    precision: Precision,
}

impl Pools {
    fn forward(&mut self, shape: &ModelShape, rows: &[RowSize], threads: usize) {
        let (bytes, threads) = shape.spec().forward_bytes(rows, threads);
        self.forward = self.forward.max(bytes);
        self.threads = self.threads.max(threads);
        if self.precision == Precision::Bf16 {
            let units: Vec<Vec<RowSize>> = rows.iter().map(|r| vec![*r]).collect();
            self.rounded = self.rounded.max(shape.spec().rounding_bytes(&units).0);
        }
    }

    fn second(&mut self, shape: &ModelShape, rows: &[RowSize], threads: usize) {
        self.second = self.second.max(shape.spec().forward_bytes(rows, threads).0);
    }

    fn step(&mut self, shape: &ModelShape, units: &[Vec<RowSize>], checkpointing: bool, threads: usize) {
        let rows: Vec<RowSize> = units.iter().flatten().copied().collect();
        self.forward(shape, &rows, threads);
        let size = shape.spec().step_size(units, checkpointing, threads);
        self.step = self.step.max(size.workspace);
        self.training = self.training.max(size.threads);
        self.gradients = self.gradients.max(size.gradients);
        if self.precision == Precision::Bf16 {
            self.rounded_back = self.rounded_back.max(shape.spec().rounding_bytes(units).1);
        }
        self.gradient = self.gradient.max(shape.weight_bytes().trained);
    }
}

/// A list of parts under way.
#[derive(Clone, Default)]
struct Parts(Vec<Part>);

impl Parts {
    fn add(&mut self, name: impl Into<String>, bytes: usize) {
        let name = name.into();
        match self.0.iter_mut().find(|p| p.name == name) {
            Some(part) => part.bytes += bytes as u64,
            None if bytes > 0 => self.0.push(Part { name, bytes: bytes as u64 }),
            None => {}
        }
    }

    /// Parameters and panels that no optimizer changes.
    fn model(&mut self, name: &str, weights: usize, panels: usize) {
        self.add(format!("{name}: weights"), weights);
        self.add(format!("{name}: panels"), panels);
    }

    /// A model under training, without what is frozen of it.
    fn trainer(&mut self, name: &str, shape: &ModelShape, precision: Precision) {
        let n = shape.weight_bytes().trained;
        self.model(name, n, shape.spec().panel_bytes(true, precision).trained);
        self.add(format!("{name}: moments"), 2 * n);
    }

    fn pools(&mut self, p: &Pools) {
        self.add("workspaces", p.threads * (p.forward + p.second) + p.training * p.step);
        self.add("workspace of encoders", p.encoder);
        self.add("gradients", p.gradients * p.gradient);
        self.add("rounded to bf16", p.threads * p.rounded + p.training * p.rounded_back);
    }

    /// Decoding `rows`: caches, and everything else of the batches and of the draws.
    fn sampler(&mut self, shape: &ModelShape, rows: &[RowSize], sampling: &SamplingConfig, threads: usize) {
        let new = sampling.max_new_tokens;
        let prompt = rows.iter().map(|r| r.tokens - r.lm).max().unwrap_or(0);
        let batches = Batches::of(shape.spec().n_params, rows.len(), threads);
        let team = if batches.shared { threads } else { 1 };
        let (cache, rest) = shape.spec().decode_bytes(batches.rows, prompt + new, prompt, team);
        let sorted = sampling.top_k > 0 || sampling.top_p < 1.0;
        let order = if sorted { batches.rows * 4 * shape.config().vocab } else { 0 };
        self.add("KV cache", batches.count * cache);
        self.add("sampler", batches.count * (rest + order));
    }

    fn of(mut self, stage: Stage, held: u64) -> StageMemory {
        self.add("program, tokenizer and data", held as usize);
        let sum: u64 = self.0.iter().map(|p| p.bytes).sum();
        self.add("freed, kept by the allocator", (sum / KEPT.0 + KEPT.1) as usize);
        self.0.sort_by_key(|p| std::cmp::Reverse(p.bytes));
        StageMemory { stage, peak: self.0.iter().map(|p| p.bytes).sum(), parts: self.0 }
    }
}

/// What the system's allocator keeps of freed blocks beyond the sum of the other parts: a share of it and a constant, bytes.
/// No allocator says it beforehand; these fit what 18 runs took on Linux with glibc (`docs/plan.md`).
const KEPT: (u64, u64) = (16, 3_000_000);

/// Numbers that a rollout keeps: of each response token (ids, log-probs of policy and reference, entropy, KL, values,
/// shaped rewards, advantages, returns and their sums) and of each token of the whole.
const ROLLOUT: (usize, usize) = (16 * 4, 3 * 4);

/// The stages that the recipe has.
pub(super) fn stages(recipe: &Recipe, models: &Models, ground: &Ground) -> Vec<StageMemory> {
    let Ground { lengths, threads, held, .. } = ground;
    let (threads, held) = (*threads, *held);
    let precision = match recipe.model.dtype {
        Dtype::F32 => Precision::F32,
        Dtype::Bf16 => Precision::Bf16,
    };
    let checkpointing = recipe.model.gradient_checkpointing;
    let mut pools = Pools { precision, ..Pools::default() };
    let mut all = Vec::new();
    let start = &models.start;
    let is_frozen = start.spec().frozen > 0;
    // What is frozen of the start, which every model over it shares, with panels both ways.
    let base = |parts: &mut Parts| {
        let panels = start.spec().panel_bytes(true, precision).frozen;
        parts.add("frozen: weights", start.weight_bytes().frozen);
        parts.add("frozen: panels", if is_frozen { panels } else { 0 });
    };
    // The start itself lives through a stage; its panels are there if something of it is frozen.
    let begin = |parts: &mut Parts| {
        let panels = start.spec().panel_bytes(true, precision).trained;
        parts.model("start of the policy", start.weight_bytes().trained, if is_frozen { panels } else { 0 });
    };

    let sft = recipe.sft.as_ref().map_or(Vec::new(), |s| lengths.sft_batch(s.batch_size));
    if recipe.runs_sft() && !sft.is_empty() {
        pools.step(start, &sft, checkpointing, threads);
        let mut parts = Parts::default();
        base(&mut parts);
        parts.trainer("policy", start, precision);
        parts.pools(&pools);
        all.push(parts.of(Stage::Sft, held));
    }
    let pairs = lengths.pair_batch(recipe.reward.batch_size);
    if let (true, Some((reward, _)), false) = (recipe.trains_reward_model(), &models.reward, pairs.is_empty())
    {
        pools.step(reward, &pairs, checkpointing, threads);
        let mut parts = Parts::default();
        base(&mut parts);
        begin(&mut parts);
        parts.trainer("reward model", reward, precision);
        parts.pools(&pools);
        all.push(parts.of(Stage::Reward, held));
    }

    let rows = lengths.rollout(recipe.ppo.batch_size);
    // Weights of frozen encoders, and what one of them needs at a time.
    let judges = |parts: &mut Parts, pools: &mut Pools, rows: &[RowSize], of_costs: bool| {
        for judge in ground.judges.iter().filter(|j| j.of_costs == of_costs) {
            parts.add(format!("{}: weights", judge.name), judge.weight_bytes());
            pools.encoder = pools.encoder.max(judge.forward_bytes(rows));
        }
    };
    let reward = |parts: &mut Parts, pools: &mut Pools, rows: &[RowSize]| {
        judges(parts, pools, rows, false);
        let Some((shape, shares)) = &models.reward else { return };
        let (weights, panels) = (shape.weight_bytes(), shape.spec().panel_bytes(is_frozen, precision));
        let own = if *shares { 0 } else { 1 };
        // The frozen part of other members is shared as that of the first is.
        let others = models.members.saturating_sub(1);
        parts.model(
            "reward model",
            (1 + others) * (weights.trained + own * weights.frozen),
            (1 + others) * (panels.trained + own * panels.frozen),
        );
        let last: Vec<RowSize> = rows.iter().map(|r| RowSize { lm: 0, scalar: 1, ..*r }).collect();
        pools.forward(shape, &last, threads);
    };
    let reference = |parts: &mut Parts, pools: &mut Pools, rows: &[RowSize]| {
        let shape = match &models.reference {
            Reference::Copy => {
                // Its panels are those of the start, where these are there; a reference that moves packs its own.
                let own = !is_frozen || models.moves;
                let panels = start.spec().panel_bytes(is_frozen, precision).trained;
                // Weights are the start's own until it moves.
                let weights = if models.moves { start.weight_bytes().trained } else { 0 };
                parts.model("reference", weights, if own { panels } else { 0 });
                start
            }
            Reference::Other(shape) => {
                let (weights, panels) = (shape.weight_bytes(), shape.spec().panel_bytes(false, precision));
                // The base of the policy's adapter is not held twice.
                let own =
                    if start.has_adapter() && recipe.model.reference.as_ref() == Some(&recipe.model.policy) {
                        0
                    } else {
                        1
                    };
                parts.model(
                    "reference",
                    own * (weights.frozen + weights.trained),
                    own * (panels.frozen + panels.trained),
                );
                shape
            }
        };
        pools.second(shape, rows, threads);
    };

    let evaluation = |all: &mut Vec<StageMemory>, pools: &mut Pools| {
        if recipe.eval.prompts == 0 {
            return;
        }
        let rows = lengths.evaluation(recipe.eval.samples);
        let mut parts = Parts::default();
        let panels = start.spec().panel_bytes(false, precision);
        parts.add("frozen: weights", start.weight_bytes().frozen);
        parts.add("frozen: panels", panels.frozen);
        parts.model("policy before", start.weight_bytes().trained, panels.trained);
        parts.model("policy after", start.weight_bytes().trained, panels.trained);
        reference(&mut parts, pools, &rows);
        reward(&mut parts, pools, &rows);
        pools.forward(&models.policy, &rows, threads);
        parts.pools(pools);
        parts.sampler(start, &rows, &recipe.sampling, threads);
        parts.add("rollouts", rows.iter().map(|r| ROLLOUT.0 * r.lm + ROLLOUT.1 * r.tokens).sum());
        all.push(parts.of(Stage::Eval, held));
    };

    if let Some(dpo) = &recipe.dpo {
        let pairs = lengths.dpo_batch(dpo.batch_size);
        let mut parts = Parts::default();
        base(&mut parts);
        // The policy moves away from the start, which stays as the reference.
        if matches!(models.reference, Reference::Copy) {
            parts.model("start of the policy", start.weight_bytes().trained, 0);
        }
        reference(&mut parts, &mut pools, &pairs.concat());
        parts.trainer("policy", &models.policy, precision);
        pools.step(&models.policy, &pairs, checkpointing, threads);
        parts.pools(&pools);
        all.push(parts.of(Stage::Dpo, held));
        evaluation(&mut all, &mut pools);
        return all;
    }

    let mut parts = Parts::default();
    base(&mut parts);
    begin(&mut parts);
    reference(&mut parts, &mut pools, &rows);
    reward(&mut parts, &mut pools, &rows);
    parts.trainer("policy", &models.policy, precision);
    pools.forward(&models.policy, &rows, threads);
    let of = |size: fn(&RowSize) -> RowSize| -> Vec<Vec<RowSize>> {
        let minibatch = rows.len() / recipe.ppo.minibatches.max(1);
        let micro = recipe.ppo.micro_batch.unwrap_or(minibatch).min(minibatch);
        rows.iter().take(micro).map(|r| vec![size(r)]).collect()
    };
    match &models.value {
        None => pools.step(&models.policy, &of(|r| *r), checkpointing, threads),
        Some((value, shares)) => {
            parts.trainer("value model", value, precision);
            if !shares && models.reward.is_none() {
                parts.model("value model", value.weight_bytes().frozen, 0);
            }
            let scalars = of(|r| RowSize { lm: 0, ..*r });
            pools.step(value, &scalars, checkpointing, threads);
            pools.step(&models.policy, &of(|r| RowSize { scalar: 0, ..*r }), checkpointing, threads);
        }
    }
    judges(&mut parts, &mut pools, &rows, true);
    if let Some((model, critic)) = &models.cost {
        let scalars = of(|r| RowSize { lm: 0, ..*r });
        if let Some(model) = model {
            let (weights, panels) = (model.weight_bytes(), model.spec().panel_bytes(is_frozen, precision));
            parts.model("cost model", weights.trained + weights.frozen, panels.trained + panels.frozen);
        }
        parts.trainer("cost critic", critic, precision);
        pools.step(critic, &scalars, checkpointing, threads);
    }
    if recipe.judges_updates() {
        // What undoes an update; the policy before it has panels, for KL is measured to it.
        let (policy, panels) = (&models.policy, models.policy.spec().panel_bytes(false, precision).trained);
        let n = policy.weight_bytes().trained;
        parts.model("policy before the update", n, panels);
        parts.add("policy before the update: moments", 2 * n);
        if let Some((value, _)) = &models.value {
            let n = value.weight_bytes().trained;
            parts.add("value model before the update", 3 * n);
        }
        if recipe.keeps_first_reference() {
            parts.model("first reference", 0, start.spec().panel_bytes(false, precision).trained);
        }
        pools.second(policy, &rows, threads);
    }
    let numbers: usize = rows.iter().map(|r| ROLLOUT.0 * r.lm + ROLLOUT.1 * r.tokens).sum();
    parts.add("rollouts", numbers);
    let sampler = |parts: &mut Parts| parts.sampler(&models.policy, &rows, &recipe.sampling, threads);
    let moments = if models.policy.spec().is_large() {
        let mut sampling = parts.clone();
        let mut scoring = parts.clone();
        let mut training = parts;
        sampler(&mut sampling);
        scoring.pools(&Pools { step: 0, gradient: 0, rounded_back: 0, ..pools });
        training.pools(&Pools { second: 0, ..pools });
        if !is_frozen {
            let rest =
                |parts: &mut Parts, name: &str| parts.0.retain(|p| p.name != format!("{name}: panels"));
            rest(&mut training, "reward model");
            // Of an update that is judged KL is measured, maybe again and again.
            if !recipe.judges_updates() {
                rest(&mut training, "reference");
            }
        }
        vec![sampling, scoring, training]
    } else {
        sampler(&mut parts);
        parts.pools(&pools);
        vec![parts]
    };
    all.extend(moments.into_iter().map(|m| m.of(Stage::Ppo, held)).max_by_key(|m| m.peak));

    evaluation(&mut all, &mut pools);
    all
}
