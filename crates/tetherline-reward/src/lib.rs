//! Rewards: what a reward model learns from preference pairs, and rules that need no model.
//!
//! - [`pair_loss`] and [`batch_loss`]: Bradley–Terry loss with margin and centring, gradients in closed
//!   form (`loss.rs`);
//! - [`RewardNorm`]: mean 0 and standard deviation 1 on the reference policy's samples, so that a KL
//!   coefficient means the same in every run (`normalize.rs`);
//! - [`HeldOut`]: accuracy, margin, calibration, accuracy per domain, correlation with length
//!   (`report.rs`);
//! - [`Rules`]: keyword, regex, length and command rules behind [`tetherline_core::Score`].
//!
//! There is no tensor here: the trainer hands over one score per response and gets one gradient back.

mod command;
mod config;
mod error;
mod keyword;
mod length;
mod loss;
mod normalize;
mod regex_rule;
mod report;
mod rules;

pub use command::CommandRule;
pub use config::{
    CommandConfig, KeywordConfig, LengthConfig, LengthUnit, RegexConfig, RewardConfig, RuleConfig,
};
pub use error::RewardError;
pub use keyword::KeywordRule;
pub use length::LengthRule;
pub use loss::{BatchLoss, PairLoss, batch_loss, pair_loss};
pub use normalize::RewardNorm;
pub use regex_rule::RegexRule;
pub use report::{DomainReport, HeldOut, HeldOutPair, ReliabilityBin, pearson};
pub use rules::Rules;
