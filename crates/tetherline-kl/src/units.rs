//! Units of KL, as types.
//!
//! Ziegler et al. (2019) set a target of 6 nats *per sequence*; verl's default of 0.1 is nats *per
//! token*. The two differ by the response length, and mixing them up is the most common mistake with a
//! KL target, so neither converts into the other without a length:
//!
//! ```compile_fail
//! # use tetherline_kl::{NatsPerToken, law::AutoPi};
//! AutoPi::new(0.2, NatsPerToken(0.1)); // does not compile
//! ```
//! ```
//! # use tetherline_kl::{NatsPerToken, law::AutoPi};
//! let mean_response = 60.0; // tokens per sequence
//! AutoPi::new(0.2, NatsPerToken(0.1).per_sequence(mean_response));
//! ```

use serde::{Deserialize, Serialize};

/// KL in nats per sequence: the sum over the tokens of a response, averaged over responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NatsPerSequence(pub f64);

/// KL in nats per token.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NatsPerToken(pub f64);

impl NatsPerSequence {
    /// Nats per token, given the mean number of tokens per response.
    #[must_use]
    pub fn per_token(self, tokens_per_sequence: f64) -> NatsPerToken {
        NatsPerToken(self.0 / tokens_per_sequence)
    }
}

impl NatsPerToken {
    /// Nats per sequence, given the mean number of tokens per response.
    #[must_use]
    pub fn per_sequence(self, tokens_per_sequence: f64) -> NatsPerSequence {
        NatsPerSequence(self.0 * tokens_per_sequence)
    }
}

impl std::fmt::Display for NatsPerSequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.4} nats per sequence", self.0)
    }
}

impl std::fmt::Display for NatsPerToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.6} nats per token", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_converts_and_says_so() {
        assert_eq!(NatsPerToken(0.125).per_sequence(48.0), NatsPerSequence(6.0));
        assert_eq!(NatsPerSequence(6.0).per_token(48.0), NatsPerToken(0.125));
        assert_eq!(NatsPerSequence(6.0).to_string(), "6.0000 nats per sequence");
        assert_eq!(NatsPerToken(0.125).to_string(), "0.125000 nats per token");
    }
}
