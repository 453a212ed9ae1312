//! What each update contributed to the drift.
//!
//! K_s is the exact KL to the reference, nats per sequence, of the policy after s updates, always on the same prompts
//! with the same random streams. Update s contributed C_s = K_s − K_{s−1}, so contributions add up to the drift between
//! any two updates: Σ_{a<s≤b} C_s = K_b − K_a. K is measured only where the policy was kept (an *anchor*). Between two
//! anchors the shape comes from the log, which has the KL of every policy, but each on the prompts of its own step, with
//! their noise: with L_s the logged KL after s updates,
//!
//! C_s = (L_s − L_{s−1}) + r,   r = [(K_b − K_a) − Σ (L_s − L_{s−1})] / (steps between the anchors that changed the policy)
//!
//! so the sum stays exact. An update that was undone contributed nothing, but where the run also went back to an earlier policy,
//! what that changed stands beside it. The standard error given is that of L_s − L_{s−1}.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// KL after so many updates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anchor {
    /// Updates.
    pub after: u64,
    /// KL to the reference, nats per sequence.
    pub kl_nats: f64,
}

/// The logged KL of a policy, on the prompts of its own step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Logged {
    /// Nats per sequence.
    pub kl_nats: f64,
    /// Its standard error; 0 where unknown.
    pub stderr: f64,
}

/// One update's part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contribution {
    /// Which update, from 1.
    pub update: u64,
    /// KL after it less KL before it, nats per sequence.
    pub nats: f64,
    /// Standard error, where the part is the log's; `None` where both ends were measured, or nothing was logged.
    pub stderr: Option<f64>,
    /// Whether both ends were measured.
    pub measured: bool,
    /// Whether the update stood. One that the run was rolled back at did not.
    pub stood: bool,
}

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stood.
    Stood,
    /// It was undone, and the policy stayed as it was.
    Undone,
    /// It was undone, and the run went back to an earlier policy.
    RolledBack,
}

/// Contributions between the first and the last of `anchors` (ascending). `logged` is by updates done.
pub fn contributions(
    anchors: &[Anchor],
    logged: &BTreeMap<u64, Logged>,
    fate: impl Fn(u64) -> Fate,
) -> Vec<Contribution> {
    let stood = |s: u64| fate(s) == Fate::Stood;
    let changed = |s: u64| fate(s) != Fate::Undone;
    let mut out = Vec::new();
    for pair in anchors.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        let whole = b.kl_nats - a.kl_nats;
        if b.after == a.after + 1 {
            let stood = stood(b.after);
            out.push(Contribution { update: b.after, nats: whole, stderr: None, measured: true, stood });
            continue;
        }
        let updates: Vec<u64> = (a.after + 1..=b.after).collect();
        // Where nothing changed the policy and the KL differs all the same, it is shared by all.
        let none = whole != 0.0 && !updates.iter().any(|s| changed(*s));
        let counts = |s: u64| none || changed(s);
        let step = |s: u64| -> Option<(f64, f64)> {
            let (after, before) = (logged.get(&s)?, logged.get(&(s - 1))?);
            Some((after.kl_nats - before.kl_nats, after.stderr.hypot(before.stderr)))
        };
        let raw: f64 = updates.iter().filter(|s| counts(**s)).filter_map(|s| step(*s)).map(|d| d.0).sum();
        let n = updates.iter().filter(|s| counts(**s)).count() as f64;
        let rest = if n > 0.0 { (whole - raw) / n } else { 0.0 };
        out.extend(updates.iter().map(|&s| {
            let own = step(s);
            Contribution {
                update: s,
                nats: if counts(s) { own.map_or(0.0, |d| d.0) + rest } else { 0.0 },
                stderr: own.filter(|_| counts(s)).map(|d| d.1),
                measured: false,
                stood: stood(s),
            }
        }));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(values: &[f64]) -> BTreeMap<u64, Logged> {
        let at = |(s, kl): (usize, &f64)| (s as u64, Logged { kl_nats: *kl, stderr: 0.3 });
        values.iter().enumerate().map(at).collect()
    }

    fn anchors(of: &[(u64, f64)]) -> Vec<Anchor> {
        of.iter().map(|(after, kl_nats)| Anchor { after: *after, kl_nats: *kl_nats }).collect()
    }

    #[test]
    fn contributions_telescope_between_anchors() {
        let log = logged(&[0.0, 0.5, 1.0, 3.0, 2.5, 4.0]);
        let of = contributions(&anchors(&[(0, 0.0), (3, 2.4), (4, 2.6), (6, 5.0)]), &log, |_| Fate::Stood);
        let sum = |from: u64, to: u64| -> f64 {
            of.iter().filter(|c| c.update > from && c.update <= to).map(|c| c.nats).sum()
        };
        for (from, to, want) in [(0, 3, 2.4), (3, 4, 0.2), (4, 6, 2.4), (0, 6, 5.0)] {
            assert!((sum(from, to) - want).abs() < 1e-12, "{from}..{to}: {}", sum(from, to));
        }
        // By hand: 0.5, 0.5, 2.0 less 0.2 each.
        let nats: Vec<f64> = of[..3].iter().map(|c| (c.nats * 1e9).round() / 1e9).collect();
        assert_eq!(nats, [0.3, 0.3, 1.8]);
        assert!((of[0].stderr.unwrap() - 0.3 * 2f64.sqrt()).abs() < 1e-12);
        assert!(of[3].measured && of[3].stderr.is_none() && !of[4].measured);
        // The log ends before update 6: it has what the log leaves over, in equal parts.
        assert!((of[4].nats - (1.5 + 0.45)).abs() < 1e-12 && (of[5].nats - 0.45).abs() < 1e-12);
        assert_eq!(of[5].stderr, None);
    }

    #[test]
    fn an_update_that_was_undone_contributed_nothing() {
        let log = logged(&[0.0, 1.0, 1.4, 1.2, 2.0]);
        let of = contributions(&anchors(&[(0, 0.0), (4, 2.0)]), &log, |s| {
            if s == 2 { Fate::Undone } else { Fate::Stood }
        });
        assert_eq!((of[1].nats, of[1].stood, of[1].stderr), (0.0, false, None));
        assert!((of.iter().map(|c| c.nats).sum::<f64>() - 2.0).abs() < 1e-12);
        // Two undone updates between equal anchors: the noise of the log is not theirs.
        let undone = contributions(&anchors(&[(0, 0.0), (1, 1.0), (3, 1.0)]), &log, |s| {
            if s < 2 { Fate::Stood } else { Fate::Undone }
        });
        assert_eq!(undone.iter().map(|c| c.nats).collect::<Vec<_>>(), [1.0, 0.0, 0.0]);
        let none = contributions(&anchors(&[(0, 0.0), (2, 1.0)]), &logged(&[]), |_| Fate::Undone);
        assert_eq!(none.iter().map(|c| c.nats).collect::<Vec<_>>(), [0.5, 0.5]);
    }

    #[test]
    fn an_update_that_was_rolled_back_did_not_stand_and_has_what_going_back_changed() {
        let fate = |s: u64| match s {
            3 => Fate::Undone,
            4 => Fate::RolledBack,
            _ => Fate::Stood,
        };
        // Back to the policy after 1 at step 4, between anchors and at one.
        let log = logged(&[0.0, 1.0, 2.0, 2.0, 1.0, 1.5]);
        let within = contributions(&anchors(&[(0, 0.0), (5, 1.5)]), &log, fate);
        assert_eq!(within.iter().map(|c| c.nats).collect::<Vec<_>>(), [1.0, 1.0, 0.0, -1.0, 0.5]);
        let at = contributions(&anchors(&[(3, 2.0), (4, 1.0)]), &log, fate);
        assert_eq!((at[0].nats, at[0].stood), (-1.0, false));
        let stood: Vec<bool> = within.iter().map(|c| c.stood).collect();
        assert_eq!(stood, [true, true, false, false, true]);
    }
}
