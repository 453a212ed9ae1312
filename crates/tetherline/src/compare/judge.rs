//! Who decides which of two answers is better.

use crate::codec::Codec;
use crate::evaluate::Responses;
use crate::rater::Rater;
use crate::rows::samples;
use crate::{Error, sources};
use serde::Serialize;
use std::cmp::Ordering;
use std::fmt;
use tetherline_core::NamedScore;
use tetherline_models::Engine;
use tetherline_reward::{CommandConfig, CommandRule, OnFailure};

/// Who decides which of two answers is better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judge {
    /// The recipe's score: reward model and rules.
    Score,
    /// One part of it: `reward_model`, or `rule.NAME`.
    Part(String),
    /// The gold rubric of the embedded world.
    Gold,
    /// Another reward model, or an encoder: a directory or a hub id.
    Model(String),
    /// A program that compares two answers; run without a shell.
    Command(Vec<String>),
}

impl Judge {
    /// `score`, `score/PART`, `gold`, or else a reward model.
    pub fn parse(text: &str) -> Self {
        match text {
            "score" => Self::Score,
            "gold" => Self::Gold,
            _ => match text.strip_prefix("score/") {
                Some(part) => Self::Part(part.to_owned()),
                None => Self::Model(text.to_owned()),
            },
        }
    }
}

impl fmt::Display for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Score => write!(f, "score"),
            Self::Part(part) => write!(f, "score/{part}"),
            Self::Gold => write!(f, "gold"),
            Self::Model(text) => write!(f, "the reward model {text}"),
            Self::Command(argv) => write!(f, "the command `{}`", argv.join(" ")),
        }
    }
}

/// A judge with what it needs.
pub(super) enum Judging {
    Score,
    Part(String),
    Gold,
    Model(Box<Rater>),
    Command(CommandRule),
}

/// Seconds that a judge's program may take for a batch.
const TIMEOUT_S: f64 = 600.0;

/// One comparison, as the program reads it.
#[derive(Serialize)]
struct Question<'a> {
    prompt: &'a str,
    a: &'a str,
    b: &'a str,
    domain: &'a str,
}

impl Judging {
    /// Loads what the judge needs; `codec` is the policies'.
    pub(super) fn open(judge: &Judge, codec: &Codec) -> Result<Self, Error> {
        Ok(match judge {
            Judge::Score => Self::Score,
            Judge::Part(part) => Self::Part(part.clone()),
            Judge::Gold => Self::Gold,
            Judge::Model(text) => {
                let model = Rater::load(&sources::open_model(text)?)?;
                Self::Model(Box::new(model.for_policy(codec)))
            }
            Judge::Command(argv) => Self::Command(CommandRule::new(CommandConfig {
                on_failure: OnFailure::default(),
                name: "judge".to_owned(),
                argv: argv.clone(),
                timeout_s: TIMEOUT_S,
                sample_timeout_s: None,
                weight: 1.0,
            })),
        })
    }

    /// How far each answer of `b` is preferred to that of `a`: 1, 0, or ½ for a tie.
    pub(super) fn wins(&mut self, engine: &Engine, a: &Responses, b: &Responses) -> Result<Vec<f64>, Error> {
        let scores = |of: &dyn Fn(&Responses) -> Result<Vec<f64>, Error>| -> Result<Vec<f64>, Error> {
            Ok(of(a)?.iter().zip(of(b)?).map(|(a, b)| win(*a, b)).collect())
        };
        match self {
            Self::Score => scores(&|r| Ok(r.records.iter().map(|r| r.score).collect())),
            Self::Part(name) => scores(&|r| part(&r.parts, name)),
            Self::Gold => scores(&|r| {
                let golds: Option<Vec<f64>> = r.records.iter().map(|r| r.gold).collect();
                golds.ok_or_else(|| {
                    Error::input("--judge gold", "not every prompt has gold: only those of a world do")
                })
            }),
            Self::Model(model) => scores(&|r| {
                let raw = model.mean_scores(engine, &samples(&r.rollout))?;
                Ok(raw.into_iter().map(f64::from).collect())
            }),
            Self::Command(rule) => {
                // In both orders: who is named first must not matter.
                let ask = |first: &Responses, second: &Responses| {
                    let question = |i: usize| Question {
                        prompt: &first.records[i].prompt,
                        a: &first.records[i].response,
                        b: &second.records[i].response,
                        domain: &first.records[i].domain,
                    };
                    let rows: Vec<_> = (0..first.records.len()).map(question).collect();
                    let answers = rule.ask(&rows).map_err(|e| Error::input("the judge", e))?;
                    match answers.iter().position(|x| !(0.0..=1.0).contains(x)) {
                        None => Ok(answers),
                        Some(i) => {
                            let problem = format!(
                                "it answered {} to comparison {}: expected how far `b` is better than `a`, from 0 to 1",
                                answers[i],
                                i + 1
                            );
                            Err(Error::input("the judge", problem))
                        }
                    }
                };
                let (forward, backward) = (ask(a, b)?, ask(b, a)?);
                Ok(forward.iter().zip(backward).map(|(f, b)| 0.5 * (f + 1.0 - b)).collect())
            }
        }
    }
}

/// 1 where `b` is larger, 0 where `a` is, ½ for a tie.
fn win(a: f64, b: f64) -> f64 {
    match b.partial_cmp(&a) {
        Some(Ordering::Greater) => 1.0,
        Some(Ordering::Less) => 0.0,
        _ => 0.5,
    }
}

fn part(parts: &[NamedScore], name: &str) -> Result<Vec<f64>, Error> {
    let found = parts.iter().find(|p| p.name == name);
    found.map(|p| p.values.iter().map(|&x| f64::from(x)).collect()).ok_or_else(|| {
        let known: Vec<String> = parts.iter().map(|p| format!("score/{}", p.name)).collect();
        Error::input(format!("--judge score/{name}"), format!("the score has the parts {}", known.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_is_named_by_what_decides() {
        assert_eq!(Judge::parse("score"), Judge::Score);
        assert_eq!(Judge::parse("gold"), Judge::Gold);
        assert_eq!(Judge::parse("score/rule.tone"), Judge::Part("rule.tone".to_owned()));
        assert_eq!(Judge::parse("org/rm@main"), Judge::Model("org/rm@main".to_owned()));
    }

    #[test]
    fn ties_are_half_a_win() {
        assert_eq!([win(1.0, 2.0), win(2.0, 1.0), win(1.0, 1.0)], [1.0, 0.0, 0.5]);
    }
}
