//! Rewards: what a reward model learns from preference pairs, and rules that need no model.
//!
//! - [`pair_loss`] and [`batch_loss`]: Bradley–Terry loss with soft labels, ties, margin, smoothing and centring, gradients
//!   in closed form (`loss.rs`); [`ranking_loss`] of more than two answers (`ranking.rs`); [`fit_length`], to hold length out
//!   of the score (`length_debias.rs`);
//! - [`EnsembleConfig`]: several reward models as one, and how far they disagree (`ensemble.rs`);
//! - [`RewardNorm`]: mean 0 and standard deviation 1 on the reference policy's samples, so that a KL
//!   coefficient means the same in every run (`normalize.rs`);
//! - [`HeldOut`]: accuracy, margin, calibration, accuracy per domain, by length and by agreement of labelers, beside length
//!   alone and a bag of words ([`BagOfWords`]) and the noise ceiling (`report.rs`);
//! - [`Rules`]: keyword, regex and length rules, commands, HTTP servers, exact answers, tests in a sandbox and (run by the caller) frozen encoders, behind
//!   [`tetherline_core::Score`]; what stands in where one of them fails (`source.rs`).
//!
//! There is no tensor here: the trainer hands over one score per response and gets one gradient back.

mod baseline;
mod command;
mod config;
mod encoder;
mod ensemble;
mod environment;
mod error;
mod exact;
mod groups;
mod http;
mod keyword;
mod length;
mod length_debias;
mod loss;
mod normalize;
mod process;
mod program;
mod ranking;
mod regex_rule;
mod report;
mod rule_config;
mod rules;
mod sandbox;
mod source;

pub use baseline::{BagOfWords, MIN_ANSWERS, TextPair};
pub use command::CommandRule;
pub use config::RewardConfig;
pub use encoder::{EncoderConfig, EncoderOutput, Readout};
pub use ensemble::{Combine, EnsembleConfig, Variance};
pub use environment::{ENVIRONMENT, Environment, EnvironmentConfig, OpenConversation, Reply};
pub use error::RewardError;
pub use exact::ExactRule;
pub use http::HttpRule;
pub use keyword::KeywordRule;
pub use length::LengthRule;
pub use length_debias::{fit_length, length_feature};
pub use loss::{BatchLoss, PairLoss, PairTarget, batch_loss, pair_loss};
pub use normalize::RewardNorm;
pub use program::ProgramRule;
pub use ranking::{Ranking, RankingTarget, ranking_loss};
pub use regex_rule::RegexRule;
pub use report::{DomainReport, GroupReport, HeldOut, HeldOutPair, LengthOnly, ReliabilityBin, pearson};
pub use rule_config::{
    CommandConfig, ExactConfig, HttpConfig, KeywordConfig, LengthConfig, LengthUnit, OnFailure,
    ProgramConfig, Protocol, RegexConfig, RuleConfig,
};
pub use rules::Rules;
