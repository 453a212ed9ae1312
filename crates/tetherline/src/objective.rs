//! `tether explain-config`: the objective that a recipe comes to, as formulas with their numbers.
//!
//! Notation of the text: t is a token that the policy wrote, l_t = ln π_old(a_t) − ln π_ref(a_t), S the score of a
//! response. Every formula is that of the file of `tetherline-ppo` which computes it (`loss.rs`, `shaping.rs`, `gae.rs`,
//! `group.rs`, `choices.rs`).

use crate::recipe::{Recipe, ValueModel};
use tetherline_kl::KlEstimator;
use tetherline_ppo::{
    Advantage, Aggregation, Correction, DpoConfig, DpoLoss, GroupKl, KlLoss, MissingEos, PpoConfig, Ratio,
    ScoreAt, Surrogate, WhitenVariance,
};

/// Widest line.
const WIDTH: usize = 96;

/// Column of what is explained.
const INDENT: usize = 14;

/// Lines under headings: a name and what it is, continued in the same column.
#[derive(Default)]
struct Text(String);

impl Text {
    fn heading(&mut self, text: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(text);
        self.0.push('\n');
    }

    /// `name` and its explanation, cut at spaces.
    fn row(&mut self, name: &str, text: &str) {
        let mut line = format!("  {name}");
        let pad = INDENT.saturating_sub(line.chars().count() + 1);
        line.push_str(&" ".repeat(pad));
        for word in text.split(' ') {
            if line.chars().count() + 1 + word.chars().count() > WIDTH && !line.trim().is_empty() {
                self.0.push_str(line.trim_end());
                self.0.push('\n');
                line = " ".repeat(INDENT - 1);
            }
            line.push(' ');
            line.push_str(word);
        }
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }
}

/// A number without noise: 0.00001 as 1e-5.
fn num(x: f64) -> String {
    if x != 0.0 && (x.abs() < 1e-3 || x.abs() >= 1e6) { format!("{x:e}") } else { format!("{x}") }
}

/// The effective objective of a recipe, at most 96 columns wide.
pub fn objective(recipe: &Recipe) -> String {
    let mut out = Text::default();
    let ppo = &recipe.ppo;
    if let Some(dpo) = &recipe.dpo {
        preferences(&mut out, recipe, dpo);
        return out.0;
    }
    out.heading(&format!("{}: {}", if recipe.name.is_empty() { "recipe" } else { &recipe.name }, title(ppo)));
    policy(&mut out, recipe);
    rewards(&mut out, recipe);
    beta(&mut out, recipe);
    critic(&mut out, recipe);
    steps(&mut out, recipe);
    let warnings = ppo.warnings();
    if !warnings.is_empty() {
        out.heading("Mind");
        warnings.iter().for_each(|w| out.row("", w));
    }
    out.0
}

/// Direct preference optimisation.
fn preferences(out: &mut Text, recipe: &Recipe, dpo: &DpoConfig) {
    let name = if recipe.name.is_empty() { "recipe" } else { &recipe.name };
    out.heading(&format!("{name}: direct preference optimisation ({})", dpo.loss));
    out.heading("The policy minimises");
    let (beta, gap) = (num(dpo.beta), num(0.5 / dpo.beta));
    let loss = match (dpo.loss, dpo.label_smoothing) {
        (DpoLoss::Sigmoid, 0.0) => format!("−ln σ({beta}·h)"),
        (DpoLoss::Sigmoid, e) => format!("−{}·ln σ({beta}·h) − {}·ln σ(−{beta}·h)", num(1.0 - e), num(e)),
        (DpoLoss::Ipo | DpoLoss::IpoSum, _) => format!("(h − {gap})²"),
    };
    out.row("L =", &format!("mean over pairs of {loss}"));
    let over = if dpo.loss == DpoLoss::Ipo { "mean" } else { "sum" };
    out.row("h =", "r(chosen) − r(rejected)");
    out.row("r =", &format!("{over} over the tokens of an answer of ln π − ln π_ref"));
    out.row("π_ref =", reference(recipe));
    out.heading("Learning");
    let (n, lr) = (dpo.batch_size, num(dpo.lr));
    let clip = if dpo.max_grad_norm > 0.0 { num(dpo.max_grad_norm) } else { "no norm".to_owned() };
    out.row("steps", &format!("{n} pairs each, AdamW at {lr}, gradients clipped at {clip}"));
}

/// The policy that log-ratios are taken to.
fn reference(recipe: &Recipe) -> &str {
    match &recipe.model.reference {
        Some(name) => name,
        None if recipe.runs_sft() => "the policy after SFT",
        None => "the policy that the run starts from",
    }
}

/// The algorithm by the name that people know it by, where it has one.
fn title(ppo: &PpoConfig) -> String {
    let critic = match ppo.advantages {
        Advantage::Gae => "PPO with a critic",
        Advantage::GroupStd => "advantages by groups (GRPO), no critic",
        Advantage::GroupMean => "advantages by groups without their deviation (Dr. GRPO), no critic",
        Advantage::LeaveOneOut => "leave-one-out advantages (RLOO), no critic",
        Advantage::LengthWeighted => "advantages by groups with a length-weighted mean (OPO), no critic",
        Advantage::ReinforcePlusPlus => "REINFORCE++, no critic",
        Advantage::ReinforcePlusPlusBaseline => "REINFORCE++ with the group's mean, no critic",
        Advantage::Remax => "advantages over the greedy response (ReMax), no critic",
    };
    let ratio = match ppo.ratio {
        Ratio::Token => "",
        Ratio::Sequence => ", one ratio per response (GSPO)",
        Ratio::GeometricMean => ", geometric-mean ratio (GMPO)",
    };
    format!("{critic}{ratio}")
}

fn policy(out: &mut Text, recipe: &Recipe) {
    let ppo = &recipe.ppo;
    out.heading("The policy minimises");
    let weight = match ppo.aggregation {
        Aggregation::TokenMean => "1/n Σ_t".to_owned(),
        Aggregation::SeqMeanTokenSum => "1/N Σ_i Σ_t".to_owned(),
        Aggregation::SeqMeanTokenMean => "1/N Σ_i 1/n_i Σ_t".to_owned(),
        Aggregation::SeqMeanConstant(l) => format!("1/(N·{l}) Σ_i Σ_t"),
        Aggregation::SumConstant(l) => format!("1/{l} Σ_i Σ_t"),
    };
    let (low, high) = (1.0 - ppo.clip_range, 1.0 + ppo.clip_range_high.unwrap_or(ppo.clip_range));
    let ratio = if ppo.ratio == Ratio::Token { "ρ_t" } else { "s_i" };
    let (low, high) = (num((low * 1e12).round() / 1e12), num((high * 1e12).round() / 1e12));
    let surrogate = match ppo.surrogate {
        Surrogate::Clipped if ppo.ratio == Ratio::GeometricMean => "−Ā_i·s_i".to_owned(),
        Surrogate::Clipped => format!("max(−A_t·{ratio}, −A_t·clip({ratio}, {low}, {high}))"),
        Surrogate::Cispo => format!("−sg(clip(ρ_t, {low}, {high}))·A_t·ln π(a_t)"),
        Surrogate::CispoUpper => format!("−sg(min(ρ_t, {high}))·A_t·ln π(a_t)"),
        Surrogate::Reinforce => "−A_t·ln π(a_t)".to_owned(),
    };
    let v = if ppo.rollout_correction.is_some() { "v_t·" } else { "" };
    let kl = if ppo.kl_in.loss() { " + β·K_t" } else { "" };
    let entropy = match (ppo.entropy_target, ppo.entropy_coef) {
        (None, 0.0) => String::new(),
        (None, c) => format!(" − {}·H_t", num(c)),
        (Some(_), _) => " − c·H_t".to_owned(),
    };
    let terms = format!("{v}{surrogate}{kl}{entropy}");
    let several = !kl.is_empty() || !entropy.is_empty();
    out.row("L =", &if several { format!("{weight} [ {terms} ]") } else { format!("{weight} {terms}") });
    if let Some(c) = ppo.dual_clip {
        out.row("", &format!("where A_t < 0, at most {}·|A_t| (dual clip)", num(c)));
    }
    match ppo.ratio {
        Ratio::Token if ppo.surrogate == Surrogate::Reinforce => {}
        Ratio::Token => out.row("ρ_t =", "π(a_t)/π_old(a_t), the ratio of a token"),
        Ratio::Sequence => {
            out.row("s_i =", "exp(mean over t of ln π(a_t)/π_old(a_t)), the ratio of response i")
        }
        Ratio::GeometricMean => {
            let (lo, hi) = (num(-ppo.clip_range), num(ppo.clip_range_high.unwrap_or(ppo.clip_range)));
            let text = format!(
                "exp(mean over t of ln π(a_t)/π_old(a_t), each held to [{lo}, {hi}] where that lowers \
                                the objective)"
            );
            out.row("s_i =", &text);
        }
    }
    match &recipe.cost {
        None => out.row("A_t =", &advantage(ppo)),
        Some(cost) => {
            out.row("A_t =", &whitened("(A_R − λ·A_C)/(1 + λ)", ppo));
            out.row("A_R =", &advantage(&PpoConfig { whiten_advantages: Some(false), ..ppo.clone() }));
            let pays = penalty(recipe).replacen('−', "+", 1);
            out.row("A_C =", &format!("the same of costs over their own critic, which pays {pays}"));
            let m = cost.multiplier;
            let how = if m.lr == 0.0 {
                num(m.init)
            } else {
                let (init, lr, limit) = (num(m.init), num(m.lr), num(cost.limit));
                let bounds = format!("in [{}, {}]", num(m.min), num(m.max));
                format!("{init} at first; ln λ moves by {lr}·λ·(mean cost − {limit}) a step, {bounds}")
            };
            out.row("λ =", &how);
        }
    }
    if ppo.kl_in.loss() {
        if ppo.ratio != Ratio::Token && ppo.kl_loss == KlLoss::Corrected {
            out.row("ρ_t =", "π(a_t)/π_old(a_t), the ratio of a token");
        }
        let l = "l = ln π(a_t) − ln π_ref(a_t)";
        let text = match ppo.kl_loss {
            KlLoss::Corrected => {
                format!("ρ_t·(e^(−l) − 1 + l), {l}: its gradient is ρ_t·l, that of KL(π ‖ π_ref)")
            }
            KlLoss::K2 => format!("l²/2, {l}: its gradient is that of KL(π ‖ π_ref) while π = π_old"),
            KlLoss::K1 => format!("l, {l}: its expected gradient is zero (accepted)"),
            KlLoss::K3 => format!("e^(−l) − 1 + l, {l}: its gradient is that of KL(π_ref ‖ π) (accepted)"),
            KlLoss::Abs => format!("|l|, {l} (accepted)"),
        };
        out.row("K_t =", &text);
        out.row("", "of each token by itself: what it changes for later tokens is not in a loss over tokens");
    }
    if let Some(e) = ppo.entropy_target {
        let text = format!(
            "{} at first; ± {} a step towards an entropy of {} nats per token, in [0, {}]; 0 above it",
            num(ppo.entropy_coef),
            num(e.delta),
            num(e.target),
            num(e.max)
        );
        out.row("c =", &text);
    }
    match ppo.rollout_correction {
        None => {}
        Some(Correction::Token(c)) => {
            out.row("v_t =", &format!("min(π_old/π_sampler of the token, {})", num(c)));
        }
        Some(Correction::Sequence(c)) => {
            out.row("v_t =", &format!("min(π_old/π_sampler of the response, {})", num(c)));
        }
    }
    out.row("", count(ppo));
}

fn count(ppo: &PpoConfig) -> &'static str {
    match (ppo.aggregation, ppo.mask_truncated) {
        (Aggregation::TokenMean, false) => "n: tokens of the minibatch",
        (Aggregation::TokenMean, true) => "n: tokens of the minibatch, responses that were cut off left out",
        (_, false) => "N: responses of the minibatch, n_i: tokens of response i",
        (_, true) => "N: responses of the minibatch that were not cut off, n_i: tokens of response i",
    }
}

fn advantage(ppo: &PpoConfig) -> String {
    let gamma = num(ppo.gamma);
    let discounted = if ppo.gamma == 1.0 { String::new() } else { format!(" discounted by {gamma}") };
    let group = |formula: &str| {
        let k = ppo.samples_per_prompt;
        let kl = match (ppo.group_kl, ppo.kl_in.reward()) {
            (_, false) => "",
            (GroupKl::ToGo, true) => " − Σ_{u ≥ t} β·l_u",
            (GroupKl::InScore, true) => ", S including −Σ_u β·l_u",
        };
        format!("{formula}{kl}, over the {k} responses to a prompt")
    };
    let of = match ppo.advantages {
        Advantage::Gae => format!("GAE of r_t over V_t with γ = {gamma}, λ = {}", num(ppo.lam)),
        Advantage::GroupStd => group("(S − mean)/(std + 1e-6)"),
        Advantage::GroupMean | Advantage::ReinforcePlusPlusBaseline => group("S − mean"),
        Advantage::LeaveOneOut => group("S − mean of the others"),
        Advantage::LengthWeighted => group("S − Σ n·S/Σ n"),
        Advantage::ReinforcePlusPlus => format!("Σ_{{u ≥ t}} r_u{discounted}"),
        Advantage::Remax => format!("Σ_{{u ≥ t}} r_u{discounted} − S of the greedy response"),
    };
    whitened(&of, ppo)
}

/// An advantage, and what is made of it over a batch.
fn whitened(of: &str, ppo: &PpoConfig) -> String {
    if !ppo.whitens() {
        return of.to_owned();
    }
    let n = match ppo.whiten_variance {
        WhitenVariance::Unbiased => "n − 1",
        WhitenVariance::Population => "n",
    };
    format!("{of}; then to mean 0 and variance 1 over the batch (divisor {n})")
}

fn rewards(out: &mut Text, recipe: &Recipe) {
    let ppo = &recipe.ppo;
    out.heading("Rewards");
    let place = match ppo.score_at {
        ScoreAt::LastToken => "S at the last token",
        ScoreAt::AfterEos => "S one place after EOS (at the last token of a response without)",
    };
    let scaled = if ppo.whiten_rewards { "; scaled to variance 1 over the batch, mean kept" } else { "" };
    let to_group = ppo.advantages.needs_group();
    if ppo.kl_in.reward() {
        if !to_group {
            out.row("r_t =", &format!("{}, and {place}{scaled}", penalty(recipe)));
        }
        out.row("l_t =", "ln π_old(a_t) − ln π_ref(a_t), the k1 estimate of the KL, nats");
    } else if !to_group {
        out.row("r_t =", &format!("{place}{scaled}"));
    }
    out.row("S =", &score(recipe));
    if let Some(o) = ppo.overlong {
        let (limit, from) = (recipe.sampling.max_new_tokens, recipe.sampling.max_new_tokens - o.buffer);
        let text = format!("less up to {} over the last {} of {limit} tokens", num(o.penalty), limit - from);
        out.row("", &text);
    }
    match ppo.missing_eos_penalty {
        MissingEos::None => {}
        MissingEos::Subtract(x) => out.row("", &format!("less {} without EOS", num(x))),
        MissingEos::Replace(x) => out.row("", &format!("{} in its place without EOS", num(x))),
    }
    let t = num(recipe.sampling.temperature);
    let reference = match recipe.kl.reference {
        Some(_) => "moves with the policy (kl.reference)",
        None => reference(recipe),
    };
    out.row("π_ref =", &format!("{reference}; the logits of both are divided by {t}"));
}

/// What a token pays in the reward.
fn penalty(recipe: &Recipe) -> &'static str {
    match recipe.ppo.kl_reward {
        KlEstimator::K1 => "−β·l_t",
        KlEstimator::K2 => "−β·l_t²/2 (k2: its gradient is biased)",
        KlEstimator::K3 => "−β·(e^(−l_t) − 1 + l_t) (k3: its gradient is biased)",
        KlEstimator::Abs => "−β·|l_t| (its gradient is biased)",
    }
}

fn score(recipe: &Recipe) -> String {
    let mut parts = Vec::new();
    if recipe.uses_reward_model() {
        let weight = recipe.reward.model_weight;
        let factor = if weight == 1.0 { String::new() } else { format!("{}·", num(weight)) };
        let norm = match (recipe.trains_reward_model(), recipe.reward.normalize_samples) {
            (true, 0) => "as trained".to_owned(),
            (true, n) => format!("mean 0, std 1 on {n} samples of π_ref"),
            (false, n) if recipe.reward.normalize.iter().any(|name| name == "reward_model") => {
                format!("mean 0, std 1 on {n} samples of π_ref")
            }
            (false, _) => "normalised as its reward_norm.json says".to_owned(),
        };
        parts.push(format!("{factor}reward_model ({norm})"));
    }
    for rule in &recipe.reward.rule {
        let weight = rule.weight();
        let factor = if weight == 1.0 { String::new() } else { format!("{}·", num(weight)) };
        let norm = match recipe.reward.normalize.iter().any(|name| name == rule.name()) {
            true => format!(" (mean 0, std 1 on {} samples of π_ref)", recipe.reward.normalize_samples),
            false => String::new(),
        };
        parts.push(format!("{factor}rule.{}{norm}", rule.name()));
    }
    if let Some(environment) = &recipe.environment {
        let factor =
            if environment.weight == 1.0 { String::new() } else { format!("{}·", num(environment.weight)) };
        parts.push(format!("{factor}environment (rewards of all turns)"));
    }
    if parts.is_empty() {
        "nothing: the recipe has no reward model and no rule".to_owned()
    } else {
        parts.join(" + ")
    }
}

fn beta(out: &mut Text, recipe: &Recipe) {
    out.heading("KL");
    let kl = &recipe.kl;
    let place = match (recipe.ppo.kl_in.reward(), recipe.ppo.kl_in.loss()) {
        (true, true) => "in the reward and in the loss",
        (true, false) => "in the reward",
        _ => "in the loss",
    };
    let init = num(kl.init());
    let text = match kl.target() {
        None if kl.law.name() == "fixed" => format!("{init}, {place}"),
        None => format!("{init} at first, {place}; moves as kl.{} says", kl.law.name()),
        Some(target) => {
            let bounds = match kl.law.bounds() {
                Some((lo, hi)) if hi.is_finite() => format!(" in [{}, {}]", num(lo), num(hi)),
                _ => String::new(),
            };
            let law = kl.law.name();
            let goal = match kl.budgets.is_empty() {
                true => format!("a KL of {} nats per sequence", num(target.0)),
                false => "the targets of its budgets, nats per sequence".to_owned(),
            };
            format!("{init} at first, {place}; {law} moves it{bounds} towards {goal}")
        }
    };
    out.row("β =", &text);
    if !kl.budgets.is_empty() {
        let ids: Vec<String> = kl.budgets.iter().map(|b| format!("{} ({})", b.id, num(b.target.0))).collect();
        out.row("", &format!("one for each budget, summed in a row: {}", ids.join(", ")));
    }
    if recipe.judges_updates() {
        out.row("", "every update is measured before it stands (trust_region, guard or ledger)");
    }
}

fn critic(out: &mut Text, recipe: &Recipe) {
    let ppo = &recipe.ppo;
    if !ppo.advantages.needs_critic() {
        return;
    }
    let (heading, target) = match recipe.cost {
        None => ("The value function minimises", "A_t + V_old, A_t before whitening"),
        Some(_) => ("The value function minimises, and the critic of costs with A_C likewise", "A_R + V_old"),
    };
    out.heading(heading);
    let loss = match ppo.value_clip_range {
        None => "½·(V − R_t)²".to_owned(),
        Some(c) => format!("½·max((V − R_t)², (clip(V, V_old ± {}) − R_t)²)", num(c)),
    };
    out.row("L_V =", &format!("{}·{loss}, weighted as L; R_t = {target}", num(ppo.vf_coef)));
    out.row(
        "V:",
        match recipe.model.value {
            ValueModel::Separate => "a network of its own",
            ValueModel::Shared => "a second head on the policy, which L + L_V train together",
        },
    );
    if ppo.critic_warmup > 0 {
        out.row("", &format!("learns alone in the first {} steps", ppo.critic_warmup));
    }
}

fn steps(out: &mut Text, recipe: &Recipe) {
    let ppo = &recipe.ppo;
    out.heading(&format!("A step, of which there are {}", ppo.steps));
    let prompts = ppo.batch_size / ppo.samples_per_prompt;
    out.row(
        "samples",
        &format!(
            "{} responses of up to {} tokens, {} to each of {prompts} prompts",
            ppo.batch_size, recipe.sampling.max_new_tokens, ppo.samples_per_prompt
        ),
    );
    if let Some(environment) = &recipe.environment {
        let text = format!(
            "each the first of up to {} turns, in all at most {} tokens with what the environment says, which is masked: no loss, \
             no KL, skipped by the advantages",
            environment.max_turns, environment.max_tokens
        );
        out.row("", &text);
    }
    let clip =
        ppo.max_grad_norm.map_or("no clipping".to_owned(), |x| format!("gradients clipped at {}", num(x)));
    let schedule = match ppo.lr_schedule {
        tetherline_core::LrSchedule::Constant => "constant",
        tetherline_core::LrSchedule::Linear => "linear to 0",
        tetherline_core::LrSchedule::Cosine => "cosine to 0",
    };
    let warmup =
        if ppo.warmup_steps > 0 { format!(", {} steps of warm-up", ppo.warmup_steps) } else { String::new() };
    out.row(
        "learns",
        &format!(
            "{} {} over {} {} of {}; AdamW at {}, {schedule}{warmup}; {clip}",
            ppo.epochs,
            if ppo.epochs == 1 { "pass" } else { "passes" },
            ppo.minibatches,
            if ppo.minibatches == 1 { "minibatch" } else { "minibatches" },
            ppo.batch_size / ppo.minibatches,
            num(ppo.lr)
        ),
    );
    if let Some(target) = ppo.target_kl {
        let text = format!("once ½(ln π − ln π_old)² of a pass exceeds {} nats per token", num(1.5 * target));
        out.row("stops", &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(more: &[(&str, &str)]) -> String {
        let sets: Vec<(String, String)> =
            more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        objective(&Recipe::load("quickstart", &sets).unwrap())
    }

    #[test]
    fn the_quickstart_reads_as_its_objective() {
        let text = text(&[]);
        for line in [
            "quickstart: PPO with a critic\n",
            "  L =         1/n Σ_t max(−A_t·ρ_t, −A_t·clip(ρ_t, 0.8, 1.2))\n",
            "  A_t =       GAE of r_t over V_t with γ = 1, λ = 0.95; then to mean 0 and variance 1",
            "  r_t =       −β·l_t, and S at the last token\n",
            "  S =         reward_model (mean 0, std 1 on 256 samples of π_ref)\n",
            "              -3 in its place without EOS\n",
            "  β =         0.1 at first, in the reward; auto_pi moves it in [0.001, 10] towards a KL of 3",
            "A step, of which there are 60\n",
        ] {
            assert!(text.contains(line), "{line}in\n{text}");
        }
    }

    #[test]
    fn preferences_have_an_objective_of_their_own() {
        let text = text(&[("dpo.beta", "0.2"), ("dpo.label_smoothing", "0.1")]);
        assert!(text.contains("mean over pairs of −0.9·ln σ(0.2·h) − 0.1·ln σ(−0.2·h)\n"), "{text}");
        let ipo = self::text(&[("dpo.loss", "ipo"), ("dpo.beta", "0.25")]);
        assert!(ipo.contains("(h − 2)²\n") && ipo.contains("mean over the tokens of an answer"), "{ipo}");
    }

    #[test]
    fn a_constraint_shows_its_multiplier() {
        let rule = "[{ keyword = { words = ['x'] } }]";
        let text = text(&[("model.value", "separate"), ("cost.limit", "0.25"), ("cost.rule", rule)]);
        assert!(
            text.contains("(A_R − λ·A_C)/(1 + λ)") && text.contains("0.1·λ·(mean cost − 0.25)"),
            "{text}"
        );
        // Lines are broken where they are long.
        let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let of_both = text.contains("(divisor n − 1)") && text.contains("R_t = A_R + V_old");
        assert!(of_both && text.contains("critic of costs with A_C likewise"), "{text}");
    }

    #[test]
    fn every_choice_shows_and_fits_a_terminal() {
        let group =
            [("model.value", "separate"), ("ppo.samples_per_prompt", "4"), ("ppo.advantages", "grpo")];
        for (more, says) in [
            (&[("ppo.kl_in", "loss")][..], "[ max(−A_t·ρ_t, −A_t·clip(ρ_t, 0.8, 1.2)) + β·K_t ]"),
            (&[("ppo.ratio", "sequence"), ("ppo.clip_range", "3e-4")], "clip(s_i, 0.9997, 1.0003)"),
            (
                &[("ppo.surrogate", "cispo_upper"), ("ppo.clip_range_high", "4")],
                "−sg(min(ρ_t, 5))·A_t·ln π(a_t)",
            ),
            (&[("ppo.advantages", "rloo")], "S − mean of the others − Σ_{u ≥ t} β·l_u, over the 4 responses"),
            (&[("ppo.advantages", "rloo"), ("ppo.group_kl", "in_score")], "S including −Σ_u β·l_u"),
            (&[("ppo.aggregation", "{ seq_mean_constant = 96 }")], "1/(N·96) Σ_i Σ_t"),
            (&[("ppo.entropy_coef", "0.01")], "− 0.01·H_t"),
            (&[("ppo.entropy_target", "{ target = 0.5 }")], "± 0.005 a step"),
            (&[("ppo.dual_clip", "3")], "at most 3·|A_t|"),
            (
                &[("ppo.overlong", "{ buffer = 16, penalty = 1 }")],
                "less up to 1 over the last 16 of 96 tokens",
            ),
            (
                &[("environment", "{ argv = ['ask'], max_turns = 3, max_tokens = 500, weight = 0.5 }")],
                "+ 0.5·environment (rewards of all turns)",
            ),
            (
                &[("environment", "{ argv = ['ask'], max_turns = 3, max_tokens = 500 }")],
                "each the first of up to 3 turns, in all at most 500 tokens",
            ),
            (&[("ppo.kl_in", "reward_and_loss")], "pays β·KL twice"),
            (&[("ppo.rollout_correction", "{ token = 2 }")], "v_t·max("),
            (&[("ppo.target_kl", "0.02")], "exceeds 0.03 nats per token"),
            (
                &[("ppo.whiten_rewards", "true"), ("ppo.advantages", "gae")],
                "variance 1 over the batch, mean kept",
            ),
        ] {
            let text = text(&[&group, more].concat());
            assert!(
                text.split_whitespace().collect::<Vec<_>>().join(" ").contains(says),
                "{says} in\n{text}"
            );
            for line in text.lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
                assert_eq!(line, line.trim_end());
            }
        }
    }
}
