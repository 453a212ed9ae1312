//! What a controller answers: β per domain, a verdict, and the reason.

use crate::observation::ALL;
use crate::reason::Reason;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlDecision {
    /// The observation's step.
    pub step: u64,
    /// The coefficient of every known domain, reward units per nat. Always finite; the law's bounds are of each entry,
    /// not of a sum over several.
    pub beta: BTreeMap<String, f64>,
    /// How the entries of `beta` combine for one row; left out of the JSON where one entry is one row's β.
    #[serde(default, skip_serializing_if = "Combine::is_own")]
    pub combine: Combine,
    /// What to do with this step.
    pub verdict: Verdict,
    /// With [`Verdict::Scale`]: keep this share of the update (θ_old + scale·(θ_new − θ_old)); else 1.
    pub scale: f64,
    /// Multiply the learning rate by this; 1 unless the verdict is [`Verdict::Throttle`] or one still decays.
    pub lr_factor: f64,
    /// Why.
    pub reason: Reason,
}

/// What to do with a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Go on.
    Accept,
    /// Scale the update back by `scale` and measure again.
    Scale,
    /// Undo this update (phase trial), or do not learn from this batch (phase rollout).
    Reject,
    /// Restore the last good checkpoint: weights, optimiser and the controller's law state.
    Rollback,
    /// Go on with the learning rate multiplied by `lr_factor`.
    Throttle,
    /// Stop.
    Halt,
}

/// How the entries of `beta` make one row's coefficient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// A row uses the entry of its own domain, or of `all` where it has none.
    #[default]
    Own,
    /// A row uses the sum over every id it belongs to (domain, user, `all`): the dual of several budgets.
    Sum,
}

impl Combine {
    fn is_own(&self) -> bool {
        *self == Self::Own
    }
}

impl ControlDecision {
    /// An accepting decision with nothing decided, to be filled by `KlController::observe_into`.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            step: 0,
            beta: BTreeMap::new(),
            combine: Combine::Own,
            verdict: Verdict::Accept,
            scale: 1.0,
            lr_factor: 1.0,
            reason: Reason::Start {},
        }
    }

    /// β of a row that belongs to this domain (and to `all`).
    ///
    /// With [`Combine::Own`]: its entry, else that of `all`, else the largest (an unknown domain gets the
    /// tightest tether). With [`Combine::Sum`]: its entry (else the largest of the others) plus that of `all`.
    #[must_use]
    pub fn beta_for(&self, domain: &str) -> f64 {
        lookup(&self.beta, self.combine, domain)
    }

    /// β of a row that belongs to several groups, e.g. its domain and its user, and to `all`.
    ///
    /// With [`Combine::Sum`]: the sum of the known ones, each counted once. With [`Combine::Own`]: the
    /// largest of the known ones; `beta_for("all")` where none is known.
    #[must_use]
    pub fn beta_for_row(&self, groups: &[&str]) -> f64 {
        let known = |g: &&str| self.beta.contains_key(*g);
        match self.combine {
            Combine::Own => groups
                .iter()
                .filter(|g| known(g))
                .map(|g| self.beta[*g])
                .max_by(f64::total_cmp)
                .unwrap_or_else(|| self.beta_for(ALL)),
            Combine::Sum => {
                let named = || groups.iter().filter(|g| **g != ALL);
                if named().next().is_some() && !named().any(known) {
                    // None of them is known: the tightest tether, as for `beta_for`.
                    return self.beta_for(named().next().map_or(ALL, |g| *g));
                }
                let own: f64 = named().filter(|g| known(g)).map(|g| self.beta[*g]).sum();
                finite(own + self.beta.get(ALL).copied().unwrap_or(0.0))
            }
        }
    }
}

/// Sets a map's value without allocating where the key exists.
pub(crate) fn set(map: &mut BTreeMap<String, f64>, id: &str, value: f64) {
    match map.get_mut(id) {
        Some(slot) => *slot = value,
        None => {
            map.insert(id.to_owned(), value);
        }
    }
}

/// The lookup rule of [`ControlDecision::beta_for`].
pub(crate) fn lookup(beta: &BTreeMap<String, f64>, combine: Combine, domain: &str) -> f64 {
    let own = beta.get(domain).copied();
    let all = beta.get(ALL).copied();
    let largest_but_all =
        || beta.iter().filter(|(id, _)| id.as_str() != ALL).map(|(_, b)| *b).max_by(f64::total_cmp);
    match combine {
        Combine::Own => own.or(all).or_else(largest_but_all).unwrap_or(0.0),
        Combine::Sum if domain == ALL => all.unwrap_or(0.0),
        Combine::Sum => finite(own.or_else(largest_but_all).unwrap_or(0.0) + all.unwrap_or(0.0)),
    }
}

/// A sum of finite coefficients that stays one.
fn finite(sum: f64) -> f64 {
    sum.clamp(f64::MIN, f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(combine: Combine, betas: &[(&str, f64)]) -> ControlDecision {
        ControlDecision {
            beta: betas.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
            combine,
            ..ControlDecision::empty()
        }
    }

    #[test]
    fn own_beta_falls_back_to_all_then_to_the_tightest() {
        let d = decision(Combine::Own, &[("all", 0.1), ("code", 0.3)]);
        assert_eq!((d.beta_for("code"), d.beta_for("legal"), d.beta_for("all")), (0.3, 0.1, 0.1));
        let d = decision(Combine::Own, &[("code", 0.3), ("legal", 0.2)]);
        assert_eq!((d.beta_for("legal"), d.beta_for("other")), (0.2, 0.3));
        assert_eq!(d.beta_for_row(&["legal", "code"]), 0.3);
        assert_eq!(d.beta_for_row(&["nobody"]), 0.3);
    }

    #[test]
    fn summed_betas_add_up() {
        let d = decision(Combine::Sum, &[("all", 0.125), ("code", 0.25), ("user:ann", 0.5)]);
        assert_eq!(d.beta_for("code"), 0.375);
        assert_eq!(d.beta_for("all"), 0.125);
        assert_eq!(d.beta_for("unknown"), 0.625);
        assert_eq!(d.beta_for_row(&["code", "user:ann", "all"]), 0.875);
        assert_eq!(d.beta_for_row(&["code", "user:bob"]), 0.375);
    }

    #[test]
    fn that_betas_add_up_stands_in_the_json() {
        let json = serde_json::to_string(&decision(Combine::Sum, &[("all", 0.5)])).unwrap();
        assert!(json.contains(r#""combine":"sum""#), "{json}");
    }

    #[test]
    fn the_json_is_the_contract() {
        let mut d = decision(Combine::Own, &[("all", 0.21)]);
        d.step = 7;
        assert_eq!(
            serde_json::to_string(&d).unwrap(),
            r#"{"step":7,"beta":{"all":0.21},"verdict":"accept","scale":1.0,"lr_factor":1.0,"reason":{"code":"start","text":"no observation yet: β is at its initial value"}}"#
        );
        for (verdict, name) in [
            (Verdict::Scale, "scale"),
            (Verdict::Reject, "reject"),
            (Verdict::Rollback, "rollback"),
            (Verdict::Throttle, "throttle"),
            (Verdict::Halt, "halt"),
        ] {
            assert_eq!(serde_json::to_string(&verdict).unwrap(), format!("\"{name}\""));
        }
    }
}
