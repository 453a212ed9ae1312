//! Encoder rule: a frozen sequence classifier scores the response. What of its logits z becomes the score; the encoder itself
//! is run elsewhere (`tetherline_models::Encoder`).
//!
//! ```text
//! logit        z_l
//! log_odds     ln p_l − ln(1 − p_l):  z_l where labels do not exclude each other, else z_l − ln Σ_{k ≠ l} exp z_k
//! probability  p_l:                   1/(1 + exp(−z_l)), else exp z_l / Σ_k exp z_k
//! ```
//!
//! l is the `label`. By default it is the only one, and the score its logit; of two the second, which by convention is the
//! positive one, and the score its log-odds; of more it has to be said. A probability is bounded, so that a policy gains
//! nothing once it is near 1; a logit is not.

use crate::config::need;
use serde::{Deserialize, Serialize};
use tetherline_core::FieldError;

/// A frozen encoder: `weight · score`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// Name of the part of the score: `rule.<name>`.
    #[serde(default = "encoder_name")]
    pub name: String,
    /// Factor; negative for what is unwanted, as toxicity.
    #[serde(default = "one")]
    pub weight: f64,
    /// A directory or a hub id.
    pub model: String,
    /// The label that is scored: its name, or its index from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What of the label's logit is the score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<EncoderOutput>,
    /// Read prompt and response as a pair of texts; else the response alone.
    #[serde(default)]
    pub pair: bool,
}

/// What of a logit is the score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncoderOutput {
    /// The logit.
    Logit,
    /// ln p − ln(1 − p).
    LogOdds,
    /// p.
    Probability,
}

fn encoder_name() -> String {
    "encoder".into()
}

fn one() -> f64 {
    1.0
}

impl EncoderConfig {
    /// The defaults, for a model.
    pub fn of_model(model: String) -> Self {
        Self { name: encoder_name(), weight: one(), model, label: None, output: None, pair: false }
    }

    pub(crate) fn validate(&self) -> Result<(), FieldError> {
        need(!self.model.is_empty(), "model", &"\"\"", "a directory or a hub id")
    }
}

/// Logits → score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readout {
    label: usize,
    output: EncoderOutput,
    /// Labels have a sigmoid each.
    apart: bool,
}

impl Readout {
    /// Of an encoder with these labels, which exclude each other unless `multi_label`.
    ///
    /// # Errors
    /// Where the label is not among them, or has to be said.
    pub fn new(config: &EncoderConfig, labels: &[String], multi_label: bool) -> Result<Self, FieldError> {
        let known = || {
            let names: Vec<String> = labels.iter().enumerate().map(|(i, l)| format!("{l:?} ({i})")).collect();
            names.join(", ")
        };
        let label = match &config.label {
            Some(name) => labels
                .iter()
                .position(|l| l == name)
                .or_else(|| name.parse().ok().filter(|i| *i < labels.len()))
                .ok_or_else(|| FieldError::new("label", format!("{name:?} is none of {}", known())))?,
            None if labels.len() <= 2 => labels.len().saturating_sub(1),
            None => return Err(FieldError::new("label", format!("say which of {}", known()))),
        };
        let default = if labels.len() == 1 { EncoderOutput::Logit } else { EncoderOutput::LogOdds };
        let apart = multi_label || labels.len() == 1;
        Ok(Self { label, output: config.output.unwrap_or(default), apart })
    }

    /// Index of the label.
    pub fn label(&self) -> usize {
        self.label
    }

    /// The score of one text; NaN where there is no such logit.
    pub fn score(&self, logits: &[f32]) -> f64 {
        let Some(&z) = logits.get(self.label) else { return f64::NAN };
        let z = f64::from(z);
        let log_odds = || {
            if self.apart {
                return z;
            }
            let others =
                || logits.iter().enumerate().filter(|(i, _)| *i != self.label).map(|(_, &x)| f64::from(x));
            let most = others().fold(f64::NEG_INFINITY, f64::max);
            z - most - others().map(|x| (x - most).exp()).sum::<f64>().ln()
        };
        match self.output {
            EncoderOutput::Logit => z,
            EncoderOutput::LogOdds => log_odds(),
            EncoderOutput::Probability => 1.0 / (1.0 + (-log_odds()).exp()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readout(toml: &str, labels: &[&str], multi_label: bool) -> Result<Readout, FieldError> {
        let config: EncoderConfig = toml::from_str(&format!("model = \"m\"\n{toml}")).unwrap();
        config.validate().unwrap();
        let labels: Vec<String> = labels.iter().map(|l| (*l).to_owned()).collect();
        Readout::new(&config, &labels, multi_label)
    }

    fn score(toml: &str, labels: &[&str], multi_label: bool, logits: &[f32]) -> f64 {
        readout(toml, labels, multi_label).unwrap().score(logits)
    }

    /// Probabilities 1/10, 2/10, 7/10 as logits.
    #[test]
    fn logits_odds_and_probabilities_by_hand() {
        let z = [0f32, 2f32.ln(), 7f32.ln()];
        let labels = ["a", "b", "c"];
        let near = |x: f64, y: f64| assert!((x - y).abs() < 1e-6, "{x} {y}");
        near(score("label = \"c\"\noutput = \"probability\"", &labels, false, &z), 0.7);
        near(score("label = \"0\"\noutput = \"probability\"", &labels, false, &z), 0.1);
        near(score("label = \"b\"", &labels, false, &z), (0.2f64 / 0.8).ln());
        near(score("label = \"c\"\noutput = \"logit\"", &labels, false, &z), 7f64.ln());
        near(score("label = \"b\"", &labels, true, &z), 2f64.ln());
        near(score("label = \"b\"\noutput = \"probability\"", &labels, true, &z), 2.0 / 3.0);
        // Two labels: the second one's log-odds are the difference of logits. One: its logit.
        near(score("", &["NEGATIVE", "POSITIVE"], false, &[0.5, 2.0]), 1.5);
        near(score("", &["LABEL_0"], false, &[-0.25]), -0.25);
        near(score("output = \"probability\"", &["LABEL_0"], false, &[0.0]), 0.5);
        // Far out there is neither overflow nor a probability of NaN.
        near(score("", &["n", "p"], false, &[-1000.0, 1000.0]), 2000.0);
        near(score("output = \"probability\"", &["n", "p"], false, &[1000.0, -1000.0]), 0.0);
        assert!(score("", &["n", "p"], false, &[1.0]).is_nan());
    }

    #[test]
    fn a_label_that_is_missing_is_named() {
        let problem =
            |toml: &str| readout(toml, &["toxic", "insult", "threat"], true).unwrap_err().to_string();
        assert_eq!(problem(""), "label: say which of \"toxic\" (0), \"insult\" (1), \"threat\" (2)");
        assert!(problem("label = \"3\"").contains("\"3\" is none of \"toxic\" (0)"));
        assert_eq!(readout("label = \"threat\"", &["toxic", "insult", "threat"], true).unwrap().label(), 2);
    }
}
