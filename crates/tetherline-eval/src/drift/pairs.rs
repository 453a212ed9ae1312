//! Responses side by side, for people: examples of what changed, then the largest KL of every domain in turn.

use super::{DriftInput, Phrases, Response};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// What both policies say to one prompt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Number of the prompt.
    pub prompt_id: u64,
    /// Which sample of it.
    pub sample: u32,
    /// Domain tag.
    pub domain: String,
    /// User tag.
    pub user: String,
    /// Prompt text.
    pub prompt: String,
    /// Why it is shown.
    pub why: String,
    /// The policy's response; its tokens carry KL(π‖π_ref).
    pub policy: Side,
    /// The reference's; its tokens carry KL(π_ref‖π).
    pub reference: Option<Side>,
}

/// One response, token by token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// KL of the response, nats per sequence.
    pub kl_nats: f64,
    /// Its tokens.
    pub tokens: Vec<ShownToken>,
}

/// A token, or several that are one character together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShownToken {
    /// Its text.
    pub text: String,
    /// Exact KL at its position, nats.
    pub kl_nats: f64,
    /// log π − log π_ref of it, nats.
    pub log_ratio_nats: f64,
}

fn side(r: &Response) -> Side {
    let mut tokens: Vec<ShownToken> = Vec::new();
    let (mut kl, mut log_ratio) = (0.0, 0.0);
    for (t, piece) in r.pieces.iter().enumerate() {
        kl += r.kl[t];
        log_ratio += r.log_ratio[t];
        if piece.is_empty() && t + 1 < r.pieces.len() {
            // The first bytes of a character: shown with its last one.
            continue;
        }
        tokens.push(ShownToken { text: piece.clone(), kl_nats: kl, log_ratio_nats: log_ratio });
        (kl, log_ratio) = (0.0, 0.0);
    }
    Side { kl_nats: r.kl_nats(), tokens }
}

/// At most `n` pairs, none twice.
pub(super) fn choose(input: &DriftInput, phrases: Option<&Phrases>, n: usize) -> Vec<Pair> {
    let mut wanted: Vec<((u64, u32), String)> = Vec::new();
    if let Some(phrases) = phrases {
        let take = n / 6;
        for (list, verb) in [(&phrases.gained, "gained"), (&phrases.lost, "lost")] {
            for p in list.iter().take(take) {
                wanted.extend(p.example.map(|at| (at, format!("{verb} “{}”", p.text))));
            }
        }
    }
    let mut domains: BTreeMap<&str, Vec<&Response>> = BTreeMap::new();
    for r in &input.responses {
        domains.entry(&r.domain).or_default().push(r);
    }
    for rows in domains.values_mut() {
        rows.sort_by(|a, b| b.kl_nats().total_cmp(&a.kl_nats()));
    }
    for turn in 0..n {
        for rows in domains.values() {
            if let Some(r) = rows.get(turn) {
                wanted.push(((r.prompt_id, r.sample), format!("KL no. {} of its domain", turn + 1)));
            }
        }
    }
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    for (at, why) in wanted {
        if out.len() == n || !seen.insert(at) {
            continue;
        }
        let of = |rows: &'_ [Response]| rows.iter().position(|r| (r.prompt_id, r.sample) == at);
        let Some(r) = of(&input.responses).map(|i| &input.responses[i]) else { continue };
        let reference = of(&input.reference_responses).map(|i| side(&input.reference_responses[i]));
        out.push(Pair {
            prompt_id: r.prompt_id,
            sample: r.sample,
            domain: r.domain.clone(),
            user: r.user.clone(),
            prompt: r.prompt.clone(),
            why,
            policy: side(r),
            reference,
        });
    }
    out
}
