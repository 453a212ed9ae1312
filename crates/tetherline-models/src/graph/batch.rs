//! Ragged rows to padded batches. Padding exists in this folder only.

use std::ops::Range;
use tetherline_kernels::{DecoderSpec, Row};

/// Rows padded on the right to one width, and flat indices (row · width + position) of what is wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) rows: usize,
    pub(super) width: usize,
    /// Token ids, rows · width; padding is token 0.
    pub(super) ids: Vec<u32>,
    /// Positions whose next token is scored,
    pub(super) scored: Vec<u32>,
    /// and those tokens.
    pub(super) targets: Vec<u32>,
    /// Positions whose scalar is wanted.
    pub(super) wanted: Vec<u32>,
}

impl Batch {
    /// Pads rows whose ranges have been checked.
    pub(super) fn pad(rows: &[&Row<'_>]) -> Self {
        let width = rows.iter().map(|r| r.tokens.len()).max().unwrap_or(0);
        let mut b = Self { rows: rows.len(), width, ..Self::default() };
        for (i, row) in rows.iter().enumerate() {
            let at = |p: usize| (i * width + p) as u32;
            b.ids.extend(row.tokens);
            b.ids.resize((i + 1) * width, 0);
            b.scored.extend(row.lm.clone().map(at));
            b.targets.extend(row.lm.clone().map(|p| row.tokens[p + 1]));
            b.wanted.extend(row.scalar.clone().map(at));
        }
        b
    }
}

/// Cuts the flat outputs of a batch into those of its rows.
pub(super) struct Spans {
    /// One range of the scored tokens per row,
    pub(super) lm: Vec<Range<usize>>,
    /// and one of the scalars; all empty where the head is absent.
    pub(super) scalar: Vec<Range<usize>>,
}

impl Spans {
    pub(super) fn of(spec: &DecoderSpec, rows: &[&Row<'_>]) -> Self {
        let cut = |there: bool, len: &dyn Fn(&Row<'_>) -> usize| {
            let mut at = 0;
            let next = |r: &&Row<'_>| {
                let from = at;
                at += if there { len(r) } else { 0 };
                from..at
            };
            rows.iter().map(next).collect()
        };
        Self {
            lm: cut(spec.lm_head.is_some(), &|r| r.lm.len()),
            scalar: cut(spec.scalar_head.is_some(), &|r| r.scalar.len() * spec.scores()),
        }
    }
}

/// Logits of a group stay near this many floats (256 MiB); backward needs a handful of such tensors.
const LOGITS: usize = 1 << 26;

/// Tokens of a group, padding included.
pub(super) fn token_budget(spec: &DecoderSpec) -> usize {
    (LOGITS / spec.vocab.max(1)).clamp(256, 4096)
}

/// Groups units of `(rows, longest row)` so that a padded group has at most `budget` tokens, or is one unit.
/// Units of like length go together, so that little is padding.
pub(super) fn groups(units: &[(usize, usize)], budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by_key(|&u| units[u].1);
    let mut out: Vec<Vec<usize>> = Vec::new();
    let mut rows = 0;
    for u in order {
        let (n, longest) = units[u];
        match out.last_mut() {
            // Sorted, so this unit is the longest so far.
            Some(group) if (rows + n) * longest <= budget => {
                group.push(u);
                rows += n;
            }
            _ => {
                out.push(vec![u]);
                rows = n;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_on_the_right() {
        let a = Row { tokens: &[5, 6, 7], lm: 1..2, scalar: 2..3 };
        let b = Row { tokens: &[8], lm: 0..0, scalar: 0..1 };
        let expected = Batch {
            rows: 2,
            width: 3,
            ids: vec![5, 6, 7, 8, 0, 0],
            scored: vec![1],
            targets: vec![7],
            wanted: vec![2, 3],
        };
        assert_eq!(Batch::pad(&[&a, &b]), expected);
    }

    #[test]
    fn groups_hold_every_unit_once_within_the_budget() {
        let units = [(1, 10), (2, 3), (1, 4), (1, 50), (1, 3)];
        let found = groups(&units, 16);
        assert_eq!(found, [vec![1, 4, 2], vec![0], vec![3]]);
        assert!(groups(&[], 16).is_empty());
    }
}
