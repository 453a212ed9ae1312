//! `[environment]`: a user's program that speaks with the policy between its turns: a tool, a simulated user, a game.
//!
//! After every turn of the policy the program is started once for all conversations that are open. It reads one JSON object
//! per line,
//!
//! ```text
//! {"prompt": "…", "messages": […], "turns": [{"role": "assistant", "content": "…"}, …], "turn": 1, "last": false,
//!  "domain": "…", "answer": "…"}
//! ```
//!
//! (`messages` are the prompt's, where it has any; `turns` all that was said since) and writes one per line, in the same order:
//!
//! ```text
//! {"text": "And the harbour?"}        the conversation goes on: the policy reads this and answers
//! {"done": true, "reward": 1.5}       it ends
//! ```
//!
//! `reward` may stand beside `text` too; all rewards of a conversation are summed. `last` says that no further turn can follow
//! (`max_turns` is reached, or the policy's turn was cut off): a `text` is then not used. The program keeps nothing from turn
//! to turn: all it needs is in the line.

use crate::config::{at_least_one, need, positive, sample_seconds};
use crate::process::{Process, Replies};
use crate::{OnFailure, RewardError};
use serde::{Deserialize, Serialize};
use tetherline_core::{Fallback, FieldError, Message};

/// Name of the part of the score, and of the source in messages.
pub const ENVIRONMENT: &str = "environment";

/// `[environment]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentConfig {
    /// Program and arguments; no shell is involved.
    pub argv: Vec<String>,
    /// Seconds that it may take for all open conversations of a turn.
    #[serde(default = "minute")]
    pub timeout_s: f64,
    /// Seconds that it may take for each of them, from one line to the next; absent: `timeout_s` alone. A conversation that it
    /// takes longer for is left without an answer, and it is started anew for those behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_timeout_s: Option<f64>,
    /// What a conversation without an answer gets: the run stops, or it ends with this (unweighted) reward.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Turns of the policy, at most.
    #[serde(default = "four")]
    pub max_turns: usize,
    /// Tokens of a conversation behind its prompt, the environment's included. A turn that might not fit is not begun.
    pub max_tokens: usize,
    /// Factor of the rewards.
    #[serde(default = "one")]
    pub weight: f64,
    /// Who speaks, in the chat template: `user`, `tool`, …
    #[serde(default = "user")]
    pub role: String,
}

fn minute() -> f64 {
    60.0
}
fn four() -> usize {
    4
}
fn one() -> f64 {
    1.0
}
fn user() -> String {
    "user".into()
}

impl EnvironmentConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        let program = self.argv.first().is_some_and(|p| !p.is_empty());
        need(program, "argv", &format!("{:?}", self.argv), "a program and its arguments")?;
        positive("timeout_s", self.timeout_s)?;
        need(self.timeout_s <= 86400.0, "timeout_s", &self.timeout_s, "at most 86400")?;
        sample_seconds(self.sample_timeout_s, self.timeout_s)?;
        if let OnFailure::Score(x) = self.on_failure {
            need(x.is_finite(), "on_failure.score", &x, "finite")?;
        }
        at_least_one("max_turns", self.max_turns as u64)?;
        need(self.max_turns <= 1000, "max_turns", &self.max_turns, "at most 1000")?;
        at_least_one("max_tokens", self.max_tokens as u64)?;
        need(self.weight.is_finite(), "weight", &self.weight, "finite")?;
        let speaks = !self.role.is_empty() && self.role != "assistant";
        need(speaks, "role", &format!("{:?}", self.role), "a role that is not the assistant's")
    }
}

/// A conversation that waits for the environment.
#[derive(Clone, Debug, Serialize)]
pub struct OpenConversation<'a> {
    /// The prompt as text.
    pub prompt: &'a str,
    /// The prompt as messages.
    pub messages: &'a [Message],
    /// What was said since.
    pub turns: &'a [Message],
    /// Which turn of the policy this was, from 1.
    pub turn: usize,
    /// Whether no other can follow.
    pub last: bool,
    /// Domain tag.
    pub domain: &'a str,
    /// What a check needs.
    pub answer: &'a str,
}

/// What the environment says.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// To go on with; `None` ends the conversation.
    pub text: Option<String>,
    /// Unweighted.
    pub reward: f64,
}

#[derive(Deserialize)]
struct Line {
    text: Option<String>,
    #[serde(default)]
    done: bool,
    reward: Option<f64>,
}

/// What is wrong with a line, or what it says.
fn parse(line: &str) -> Result<Reply, String> {
    let expected = "expected {\"text\": …} or {\"done\": true, \"reward\": NUMBER}";
    let line: Line = serde_json::from_str(line).map_err(|_| expected.to_owned())?;
    let reward = line.reward.unwrap_or(0.0);
    match (line.text, line.done) {
        _ if !reward.is_finite() => Err("the reward is not finite".to_owned()),
        (Some(_), true) => Err("it both goes on (`text`) and is `done`".to_owned()),
        (Some(text), false) if text.is_empty() => {
            Err("the text is empty; to end say {\"done\": true}".to_owned())
        }
        (text @ Some(_), false) => Ok(Reply { text, reward }),
        (None, true) => Ok(Reply { text: None, reward }),
        (None, false) => Err(expected.to_owned()),
    }
}

/// A program between the turns.
#[derive(Clone, Debug)]
pub struct Environment {
    config: EnvironmentConfig,
    answered: bool,
}

impl Environment {
    /// Of a validated configuration. Nothing is started yet.
    pub fn new(config: EnvironmentConfig) -> Self {
        Self { config, answered: false }
    }

    /// Its configuration.
    pub fn config(&self) -> &EnvironmentConfig {
        &self.config
    }

    /// One reply per conversation, and what stands in for missing ones.
    ///
    /// # Errors
    /// [`RewardError::Command`] where a reply is missing and the run should stop, or the program has never answered.
    pub fn ask(
        &mut self,
        open: &[OpenConversation<'_>],
    ) -> Result<(Vec<Reply>, Option<Fallback>), RewardError> {
        let EnvironmentConfig { argv, timeout_s, sample_timeout_s, .. } = &self.config;
        let (timeout_s, sample_timeout_s) = (*timeout_s, *sample_timeout_s);
        let process = Process { name: ENVIRONMENT, argv, timeout_s, sample_timeout_s };
        let Replies { rows: replies, why } = process.ask(open, parse)?;
        self.answered |= replies.iter().any(Option::is_some);
        let Some(why) = why else { return Ok((replies.into_iter().flatten().collect(), None)) };
        let stand_in = match self.config.on_failure {
            OnFailure::Score(x) if self.answered => Reply { text: None, reward: x },
            _ => return Err(why),
        };
        let rows: Vec<usize> = (0..replies.len()).filter(|&i| replies[i].is_none()).collect();
        let fallback = Fallback { source: ENVIRONMENT.to_owned(), rows, why: why.to_string() };
        let replies = replies.into_iter().map(|r| r.unwrap_or_else(|| stand_in.clone())).collect();
        Ok((replies, Some(fallback).filter(|f| !f.rows.is_empty())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(script: &str, more: &str) -> Environment {
        let text = format!("argv = [\"sh\", \"-c\", {script:?}]\nmax_tokens = 9\ntimeout_s = 20\n{more}");
        let config: EnvironmentConfig = toml::from_str(&text).unwrap();
        config.validate().unwrap();
        Environment::new(config)
    }

    fn open<'a>(turns: &'a [Message], turn: usize) -> OpenConversation<'a> {
        let (prompt, domain, answer) = ("Say \"1\".", "all", "one");
        OpenConversation { prompt, messages: &[], turns, turn, last: turn == 2, domain, answer }
    }

    #[cfg(unix)]
    #[test]
    fn replies_come_back_in_order() {
        let script = r#"while read -r l; do case "$l" in *'"last":true'*) echo '{"done": true, "reward": 2}';; *'"answer":"one"'*) echo '{"text": "And two?", "reward": 0.5}';; esac; done"#;
        let turns = [Message::assistant("one")];
        let (replies, fallback) = environment(script, "").ask(&[open(&turns, 1), open(&turns, 2)]).unwrap();
        assert_eq!(replies[0], Reply { text: Some("And two?".into()), reward: 0.5 });
        assert_eq!(replies[1], Reply { text: None, reward: 2.0 });
        assert_eq!(fallback, None);
    }

    #[cfg(unix)]
    #[test]
    fn what_does_not_come_stops_or_is_stood_in_for() {
        let turns = [Message::assistant("one")];
        let two = [open(&turns, 1), open(&turns, 1)];
        let cut = "read -r l; echo '{\"text\": \"go on\"}'; exit 3";
        let error = environment(cut, "").ask(&two).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("environment"), "{error}");
        let (replies, fallback) = environment(cut, "on_failure = { score = -1.0 }").ask(&two).unwrap();
        assert_eq!(replies[1], Reply { text: None, reward: -1.0 });
        assert_eq!(fallback.unwrap().rows, [1]);
        // A conversation that it hangs at costs itself alone.
        let hangs = r#"while read -r l; do case "$l" in *'"turn":1'*) sleep 30;; *) echo '{"done": true}';; esac; done"#;
        let more = "sample_timeout_s = 0.4\non_failure = { score = -1.0 }";
        let three = [open(&turns, 2), open(&turns, 1), open(&turns, 2)];
        let (replies, fallback) = environment(hangs, more).ask(&three).unwrap();
        assert_eq!(replies.iter().map(|r| r.reward).collect::<Vec<_>>(), [0.0, -1.0, 0.0]);
        assert_eq!(fallback.unwrap().rows, [1]);
        // Whoever never answered is a mistake in the recipe.
        assert!(environment("exit 0", "on_failure = { score = -1.0 }").ask(&two).is_err());
    }

    #[test]
    fn lines_and_ranges() {
        for (line, part) in [
            ("{\"text\": \"a\", \"done\": true}", "both"),
            ("{\"text\": \"\"}", "empty"),
            ("{\"done\": false}", "expected"),
            ("3", "expected"),
            ("{\"done\": true, \"reward\": 1e999}", "expected"),
        ] {
            assert!(parse(line).unwrap_err().contains(part), "{line}");
        }
        assert_eq!(parse("{\"done\": true}"), Ok(Reply { text: None, reward: 0.0 }));
        for (text, field) in [
            ("argv = []\nmax_tokens = 9", "argv"),
            ("argv = ['a']\nmax_tokens = 0", "max_tokens"),
            ("argv = ['a']\nmax_tokens = 9\nmax_turns = 0", "max_turns"),
            ("argv = ['a']\nmax_tokens = 9\nrole = 'assistant'", "role"),
            ("argv = ['a']\nmax_tokens = 9\ntimeout_s = 0", "timeout_s"),
            ("argv = ['a']\nmax_tokens = 9\nsample_timeout_s = 61", "sample_timeout_s"),
        ] {
            assert_eq!(
                toml::from_str::<EnvironmentConfig>(text).unwrap().validate().unwrap_err().field,
                field
            );
        }
    }
}
