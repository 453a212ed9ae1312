//! Where one policy has drifted from another: shares of the KL, words that gained or lost, behaviour, samples.
//!
//! A [`Response`] carries, for each of its tokens, the exact KL(π‖π_ref) over the vocabulary at that position (nats per
//! token). Summed over a response that is π = the policy's own, the mean is an unbiased estimate of the KL in nats per
//! sequence: KL(π‖π_ref) = E_π Σₜ KL(π(·|y₍<t₎)‖π_ref(·|y₍<t₎)) (the chain rule; Cover & Thomas, theorem 2.5.3). On
//! responses that somebody else wrote it is the KL *on these texts*, which is another number. Every group's share is
//! its part of the sum over all tokens, so the shares of a grouping add up to 1.
//!
//! The reference's own responses, where given, carry KL(π_ref‖π): the reverse KL, which is large where the policy lost
//! what the reference does.

mod behaviour;
mod html;
mod pairs;
mod phrases;
mod shares;
mod text;
mod visible;

pub use behaviour::{Behaviour, behaviours, is_refusal};
pub use pairs::{Pair, ShownToken, Side};
pub use phrases::{Phrase, Phrases, fisher_exact};
pub use shares::{Part, Shares};
pub use text::TextStyle;
pub(crate) mod layout {
    //! What tables for a terminal are made with.
    pub(crate) use super::text::WIDTH;
    pub(crate) use super::visible::{cut, padded};
}
pub(crate) use visible::acts;
pub use visible::{one_line, visible};

use crate::EvalError;
use crate::bootstrap::{RESAMPLES, Ratio, clustered_ratio};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Version of the JSON that [`Drift`] is written as.
pub const SCHEMA: u32 = 1;

/// One response and what both policies make of it; every vector has one entry per token of the response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Response {
    /// Prompt, as numbered by its file.
    pub prompt_id: u64,
    /// Which sample of the prompt.
    pub sample: u32,
    /// Domain tag.
    pub domain: String,
    /// User tag; empty where there is none.
    pub user: String,
    /// Prompt text.
    pub prompt: String,
    /// Response text, specials skipped.
    pub text: String,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// What each token adds to the text; specials as they are written.
    pub pieces: Vec<String>,
    /// Exact KL at each position, nats per token: of the policy to the reference on the policy's responses, of the
    /// reference to the policy on the reference's.
    pub kl: Vec<f64>,
    /// log π − log π_ref of each token written, nats (always this way round).
    pub log_ratio: Vec<f64>,
}

impl Response {
    /// KL of the response, nats per sequence.
    pub fn kl_nats(&self) -> f64 {
        self.kl.iter().sum()
    }

    /// log π − log π_ref of the whole response, nats per sequence.
    pub fn log_ratio_nats(&self) -> f64 {
        self.log_ratio.iter().sum()
    }
}

/// What [`Drift::of`] works on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DriftInput {
    /// Name of the policy.
    pub policy: String,
    /// Name of the reference.
    pub reference: String,
    /// Divides the logits of both.
    pub temperature: f64,
    /// The responses were given, not sampled from the policy.
    pub given: bool,
    /// Responses of the policy, or those given.
    pub responses: Vec<Response>,
    /// Responses of the reference to the same prompts; may be empty.
    pub reference_responses: Vec<Response>,
    /// Root of the bootstrap's streams.
    pub seed: u64,
    /// How many pairs of responses to keep for people.
    pub pairs: usize,
}

/// How far, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name of the policy.
    pub policy: String,
    /// Name of the reference.
    pub reference: String,
    /// The responses were given, not sampled from the policy.
    pub given: bool,
    /// Divides the logits of both.
    pub temperature: f64,
    /// Distinct prompts.
    pub prompts: usize,
    /// Responses.
    pub responses: usize,
    /// Tokens of the responses.
    pub tokens: usize,
    /// ΣKL / responses.
    pub kl_nats_per_sequence: Ratio,
    /// ΣKL / tokens.
    pub kl_nats_per_token: Ratio,
    /// Mean of log π − log π_ref over the responses, nats per sequence: an estimate of the same KL where the policy wrote
    /// them. Far from it, somebody else did.
    pub log_ratio_nats_per_sequence: Ratio,
    /// KL(π_ref‖π) on the reference's own responses.
    pub reverse_kl_nats_per_sequence: Option<Ratio>,
    /// Shares by domain, user, prompt, position and token.
    pub shares: Shares,
    /// Tokens that gained or lost.
    pub token_changes: Option<Phrases>,
    /// Runs of words that gained or lost.
    pub phrase_changes: Option<Phrases>,
    /// Refusals, hedging, length, tone; empty without the reference's responses.
    pub behaviours: Vec<Behaviour>,
    /// Responses side by side.
    pub pairs: Vec<Pair>,
}

impl Drift {
    /// Takes a drift apart.
    ///
    /// # Errors
    /// [`EvalError::NoRecords`], [`EvalError::Lengths`], or [`EvalError::NonFinite`] naming the response.
    pub fn of(input: &DriftInput) -> Result<Self, EvalError> {
        let rows = &input.responses;
        if rows.is_empty() {
            return Err(EvalError::NoRecords);
        }
        check(rows)?;
        check(&input.reference_responses)?;
        let prompts: BTreeSet<u64> = rows.iter().map(|r| r.prompt_id).collect();
        let both = !input.reference_responses.is_empty();
        let (tokens, phrases) = if both {
            let (policy, reference) = (&input.responses, &input.reference_responses);
            (Some(phrases::tokens(policy, reference)), Some(phrases::words(policy, reference)))
        } else {
            (None, None)
        };
        let mean = |rows: &[Response], of: &dyn Fn(&Response) -> (f64, f64), name| {
            let each: Vec<_> = rows.iter().map(|r| (r.prompt_id, of(r))).collect();
            clustered_ratio(&each, RESAMPLES, input.seed, name)
        };
        let per_sequence = |r: &Response| (r.kl_nats(), 1.0);
        Ok(Self {
            schema: SCHEMA,
            policy: input.policy.clone(),
            reference: input.reference.clone(),
            given: input.given,
            temperature: input.temperature,
            prompts: prompts.len(),
            responses: rows.len(),
            tokens: rows.iter().map(|r| r.tokens.len()).sum(),
            kl_nats_per_sequence: mean(rows, &per_sequence, 100).ok_or(EvalError::NoRecords)?,
            kl_nats_per_token: mean(rows, &|r| (r.kl_nats(), r.tokens.len() as f64), 101)
                .ok_or(EvalError::NoRecords)?,
            log_ratio_nats_per_sequence: mean(rows, &|r| (r.log_ratio_nats(), 1.0), 102)
                .ok_or(EvalError::NoRecords)?,
            reverse_kl_nats_per_sequence: mean(&input.reference_responses, &per_sequence, 103),
            shares: Shares::of(rows),
            pairs: pairs::choose(input, phrases.as_ref(), input.pairs),
            behaviours: behaviours(rows, &input.reference_responses, input.seed),
            token_changes: tokens,
            phrase_changes: phrases,
        })
    }

    /// Tables for a terminal, at most 100 columns wide.
    pub fn text(&self, style: TextStyle) -> String {
        text::render(self, style)
    }

    /// One self-contained HTML file.
    pub fn html(&self) -> String {
        html::render(self)
    }

    /// The sections of [`Drift::html`], each with its id and heading.
    pub(crate) fn sections(&self) -> Vec<(&'static str, &'static str, String)> {
        html::sections(self)
    }
}

/// Style of what [`Drift::sections`] draws.
pub(crate) const STYLE: &str = include_str!("drift/drift.css");

fn check(rows: &[Response]) -> Result<(), EvalError> {
    for (row, r) in rows.iter().enumerate() {
        let n = r.tokens.len();
        if n == 0 || [r.pieces.len(), r.kl.len(), r.log_ratio.len()] != [n; 3] {
            return Err(EvalError::Lengths { row, prompt_id: r.prompt_id });
        }
        for (field, values) in [("kl", &r.kl), ("log_ratio", &r.log_ratio)] {
            if let Some(&value) = values.iter().find(|v| !v.is_finite()) {
                return Err(EvalError::NonFinite { field, row, prompt_id: r.prompt_id, value });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
