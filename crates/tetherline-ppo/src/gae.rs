//! Generalized advantage estimation over one response (Schulman et al. 2016, eq. 16).
//!
//! ```text
//! δ_t = r_t + γ·V_{t'} − V_t        A_t = δ_t + γλ·A_{t'}        return_t = A_t + V_t
//! ```
//!
//! where t' is the next token **the policy wrote** (V and A are 0 after the last one). Tokens that the
//! policy did not write (tool output, say) are skipped: no reward of theirs counts, and value and
//! advantage reach across them, so that inserting such tokens changes nothing for the others.

/// Advantages and returns, both with one entry per reward; 0 where `written` is false.
///
/// # Panics
/// If the slices differ in length.
pub fn gae_row(
    rewards: &[f64],
    values: &[f64],
    written: Option<&[bool]>,
    gamma: f64,
    lam: f64,
) -> (Vec<f64>, Vec<f64>) {
    let n = rewards.len();
    assert_eq!(n, values.len(), "one value per reward");
    assert!(written.is_none_or(|w| w.len() == n), "one mask entry per reward");
    let mut advantages = vec![0.0; n];
    let mut returns = vec![0.0; n];
    let (mut next_value, mut next_advantage) = (0.0, 0.0);
    for t in (0..n).rev().filter(|&t| written.is_none_or(|w| w[t])) {
        let delta = rewards[t] + gamma * next_value - values[t];
        advantages[t] = delta + gamma * lam * next_advantage;
        returns[t] = advantages[t] + values[t];
        (next_value, next_advantage) = (values[t], advantages[t]);
    }
    (advantages, returns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &[f64], b: &[f64]) {
        assert_eq!(a.len(), b.len());
        for (x, y) in a.iter().zip(b) {
            assert!((x - y).abs() <= 1e-12, "{a:?} is not {b:?}");
        }
    }

    /// By hand: δ = (−.1, −.1, .7); A₂ = .7, A₁ = −.1 + .95·.7, A₀ = −.1 + .95·A₁.
    #[test]
    fn three_tokens_by_hand() {
        let (a, r) = gae_row(&[0.0, 0.0, 1.0], &[0.5, 0.4, 0.3], None, 1.0, 0.95);
        close(&a, &[0.43675, 0.565, 0.7]);
        close(&r, &[0.93675, 0.965, 1.0]);
    }

    #[test]
    fn lambda_one_is_reward_to_go_and_lambda_zero_is_the_td_error() {
        let (rewards, values) = ([0.5, -1.0, 2.0, 0.25], [0.1, 0.2, 0.3, 0.4]);
        let (_, r) = gae_row(&rewards, &values, None, 1.0, 1.0);
        close(&r, &[1.75, 1.25, 2.25, 0.25]);
        let (a, _) = gae_row(&rewards, &values, None, 0.5, 0.0);
        close(&a, &[0.5 + 0.1 - 0.1, -1.0 + 0.15 - 0.2, 2.0 + 0.2 - 0.3, 0.25 - 0.4]);
    }

    #[test]
    fn inserting_a_token_the_policy_did_not_write_changes_nothing() {
        let (a, r) = gae_row(&[0.1, 0.2, 1.0], &[0.5, 0.4, 0.3], None, 0.9, 0.8);
        let (b, s) = gae_row(
            &[0.1, 99.0, 0.2, 1.0, -99.0],
            &[0.5, 77.0, 0.4, 0.3, 55.0],
            Some(&[true, false, true, true, false]),
            0.9,
            0.8,
        );
        close(&b, &[a[0], 0.0, a[1], a[2], 0.0]);
        close(&s, &[r[0], 0.0, r[1], r[2], 0.0]);
    }
}
