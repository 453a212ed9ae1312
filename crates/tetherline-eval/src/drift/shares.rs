//! Which part of the KL falls on which domain, user, prompt, position and token.
//!
//! The KL of a position is counted for the token that was written there. A part's share is ΣKL of its positions over
//! ΣKL of all; each grouping covers every position once, so its shares add up to 1. Where there is no KL at all, every
//! share is 0.

use super::Response;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// One part of the whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Name: a domain, a user, a prompt's text, positions from 1, a token's text.
    pub name: String,
    /// Number of the prompt, or id of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Responses with a position in this part.
    pub responses: usize,
    /// Positions.
    pub tokens: usize,
    /// KL of all its positions, nats.
    pub kl_nats: f64,
    /// Its part of the whole KL, 0 to 1.
    pub share: f64,
    /// `kl_nats / responses`, nats per sequence.
    pub kl_nats_per_sequence: f64,
    /// `kl_nats / tokens`, nats per token.
    pub kl_nats_per_token: f64,
}

/// Parts by what they are grouped by, the largest share first (positions in their order).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shares {
    /// By domain.
    pub domains: Vec<Part>,
    /// By user; responses without one are under the empty name.
    pub users: Vec<Part>,
    /// By prompt.
    pub prompts: Vec<Part>,
    /// By position in the response: 1, 2, 3, 4, then ranges that double.
    pub positions: Vec<Part>,
    /// By token written.
    pub tokens: Vec<Part>,
}

/// Name and id of the part that a position of a response belongs to.
type Key<'a> = dyn Fn(&Response, usize) -> (String, Option<u64>) + 'a;

#[derive(Default)]
struct Sum {
    name: String,
    id: Option<u64>,
    rows: HashSet<usize>,
    tokens: usize,
    kl: f64,
}

impl Shares {
    pub(super) fn of(rows: &[Response]) -> Self {
        let total: f64 = rows.iter().map(Response::kl_nats).sum();
        let by = |key: &Key<'_>| by(rows, total, key);
        let largest_first = |mut parts: Vec<Part>| {
            parts.sort_by(|a, b| b.kl_nats.total_cmp(&a.kl_nats).then_with(|| a.name.cmp(&b.name)));
            parts
        };
        let mut positions = by(&|_, t| {
            let (from, to) = range(t + 1);
            let name = if from == to { from.to_string() } else { format!("{from}-{to}") };
            (name, Some(from as u64))
        });
        positions.sort_by_key(|p| p.id);
        positions.iter_mut().for_each(|p| p.id = None);
        Self {
            domains: largest_first(by(&|r, _| (r.domain.clone(), None))),
            users: largest_first(by(&|r, _| (r.user.clone(), None))),
            prompts: largest_first(by(&|r, _| (r.prompt.clone(), Some(r.prompt_id)))),
            positions,
            tokens: largest_first(by(&|r, t| (r.pieces[t].clone(), Some(u64::from(r.tokens[t]))))),
        }
    }
}

/// The range that a position (from 1) falls in: itself up to 4, then 5-8, 9-16, …
fn range(position: usize) -> (usize, usize) {
    if position <= 4 {
        return (position, position);
    }
    let to = position.next_power_of_two();
    (to / 2 + 1, to)
}

/// Sums by key. Parts with an id are told apart by it alone: one token may stand for different text.
fn by(rows: &[Response], total: f64, key: &Key<'_>) -> Vec<Part> {
    let mut sums: BTreeMap<(String, Option<u64>), Sum> = BTreeMap::new();
    for (i, r) in rows.iter().enumerate() {
        for (t, kl) in r.kl.iter().enumerate() {
            let (name, id) = key(r, t);
            let group = if id.is_some() { String::new() } else { name.clone() };
            let sum = sums.entry((group, id)).or_default();
            // The longest name: a token that is part of a character may have none here and some elsewhere.
            if name.len() > sum.name.len() {
                sum.name = name;
            }
            sum.id = id;
            sum.rows.insert(i);
            sum.tokens += 1;
            sum.kl += kl;
        }
    }
    let part = |s: Sum| Part {
        name: s.name,
        id: s.id,
        responses: s.rows.len(),
        tokens: s.tokens,
        kl_nats: s.kl,
        share: if total > 0.0 { s.kl / total } else { 0.0 },
        kl_nats_per_sequence: s.kl / s.rows.len() as f64,
        kl_nats_per_token: s.kl / s.tokens as f64,
    };
    sums.into_values().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_double_after_the_fourth() {
        let ranges: Vec<_> = [1, 4, 5, 8, 9, 16, 17, 33].map(range).to_vec();
        assert_eq!(ranges, [(1, 1), (4, 4), (5, 8), (5, 8), (9, 16), (9, 16), (17, 32), (33, 64)]);
    }
}
