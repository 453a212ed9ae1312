//! Per-token rewards: the KL penalty at every token, the score at one (Ziegler et al. 2019, eq. 2).
//!
//! ```text
//! r_t = −β · kl_t + score · [t is the score's place]
//! ```
//!
//! kl_t is k1 = log π_old − log π_ref in nats per token, detached from the gradient: k1 in the reward
//! gives the exact gradient of KL(π ‖ π_ref); k2, k3 and |l|, which `kl_reward` declares, do not. Tokens the policy did not write carry
//! no penalty.
//!
//! The place is the last written token, or ([`ScoreAt::AfterEos`], TRL) one place after the end of
//! sequence, which has a value of its own. A response that was cut off has no such place. (TRL also lacks
//! it for a response whose EOS is the very last token allowed; here that response has one.)

use crate::ScoreAt;
use tetherline_core::StopReason;

/// k1 of one token, nats.
pub fn kl_k1(logprob: f32, ref_logprob: f32) -> f64 {
    f64::from(logprob) - f64::from(ref_logprob)
}

/// Has the row a place for the score after its last token?
pub fn score_slot(stop: StopReason, score_at: ScoreAt) -> bool {
    score_at == ScoreAt::AfterEos && stop != StopReason::Length
}

/// Rewards of one row: one per token, and one more if `slot`.
///
/// `kl` is in nats per token. A row without a written token and without a slot has no place for the
/// score; its rewards are all 0.
///
/// # Panics
/// If `written` and `kl` differ in length.
pub fn shape_row(kl: &[f64], written: Option<&[bool]>, beta: f64, score: f64, slot: bool) -> Vec<f64> {
    assert!(written.is_none_or(|w| w.len() == kl.len()), "one mask entry per token");
    let is_written = |t: usize| written.is_none_or(|w| w[t]);
    let mut rewards: Vec<f64> =
        kl.iter().enumerate().map(|(t, &k)| if is_written(t) { -beta * k } else { 0.0 }).collect();
    if slot {
        rewards.push(score);
    } else if let Some(last) = (0..kl.len()).rev().find(|&t| is_written(t)) {
        rewards[last] += score;
    }
    rewards
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_sits_at_its_place() {
        let kl = [0.5, -1.0, 2.0];
        assert_eq!(shape_row(&kl, None, 0.5, 3.0, false), [-0.25, 0.5, 2.0]);
        assert_eq!(shape_row(&kl, None, 0.5, 3.0, true), [-0.25, 0.5, -1.0, 3.0]);
    }

    #[test]
    fn unwritten_tokens_carry_nothing() {
        let kl = [0.5, -1.0, 2.0];
        let written = [true, true, false];
        assert_eq!(shape_row(&kl, Some(&written), 0.5, 3.0, false), [-0.25, 3.5, 0.0]);
        assert_eq!(shape_row(&kl, Some(&[false; 3]), 0.5, 3.0, false), [0.0; 3]);
        assert_eq!(shape_row(&[], None, 0.5, 3.0, true), [3.0]);
    }

    #[test]
    fn a_cut_off_response_has_no_place_after_eos() {
        assert!(score_slot(StopReason::Eos, ScoreAt::AfterEos));
        assert!(score_slot(StopReason::StopString, ScoreAt::AfterEos));
        assert!(!score_slot(StopReason::Length, ScoreAt::AfterEos));
        assert!(!score_slot(StopReason::Eos, ScoreAt::LastToken));
    }
}
