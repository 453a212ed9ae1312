//! HTTP rule: a server scores the responses.
//!
//! Each request is a POST of one JSON object with lists, one entry per sample:
//!
//! | protocol | request | answer |
//! | --- | --- | --- |
//! | `openrlhf` | `query` (prompt and response as one text), `prompts`, `labels` (the prompt's `answer`) | `rewards` |
//! | `trl` | `prompts`, `completions`, `answer`, `domain` | `rewards` |
//!
//! `openrlhf` is what OpenRLHF's trainer sends to `--remote_rm_url` and `openrlhf.cli.serve_rm` answers. TRL's trainers call
//! a Python function; `trl` sends its arguments, so that a server is a few lines around one: prompts and completions are
//! strings, or message lists where the prompt is one. The answer may also be a bare list, or call its list `scores` or
//! `reward`; entries are numbers or lists of one number. Texts are as in the data: where the prompt is a message list,
//! `query` and `prompts` of `openrlhf` hold the rendered conversation, special tokens included.
//!
//! A request that could not be sent, timed out, or got a status of 429 or 5xx is tried again, after 0.1 s, 0.2 s, 0.4 s, …
//! A request that failed for good costs its own samples; the next one is sent once. After [`DEAD`] such requests in a row the rest
//! of that call's samples are not asked for: a dead server costs a step a few attempts, not some per request. With `batch = 1`
//! `timeout_s` is that of a sample.

use crate::source::{Answers, Settled, is_usable, part, shorten};
use crate::{HttpConfig, Protocol, RewardError};
use serde_json::{Value, json};
use tetherline_core::{BoxError, Fallback, NamedScore, Score, TextSample};

/// Most of an answer that is read, bytes.
#[cfg(feature = "http")]
const MOST: u64 = 64 << 20;

/// Requests in a row that failed for good, after which a server counts as dead for the rest of a call.
const DEAD: usize = 3;

/// An HTTP rule.
#[derive(Debug)]
pub struct HttpRule {
    config: HttpConfig,
    settled: Settled,
    #[cfg(feature = "http")]
    agent: ureq::Agent,
}

/// Why a request failed, and whether another attempt may help.
struct Failed {
    problem: String,
    again: bool,
}

impl HttpRule {
    /// The rule of a validated configuration. Nothing is sent yet.
    ///
    /// # Errors
    /// [`RewardError::Source`] where this build has no HTTP client.
    #[cfg(feature = "http")]
    pub fn new(config: HttpConfig) -> Result<Self, RewardError> {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(std::time::Duration::from_secs_f64(config.timeout_s)))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build()
            .into();
        Ok(Self { config, settled: Settled::default(), agent })
    }

    /// The rule of a validated configuration. Nothing is sent yet.
    ///
    /// # Errors
    /// [`RewardError::Source`] where this build has no HTTP client.
    #[cfg(not(feature = "http"))]
    pub fn new(config: HttpConfig) -> Result<Self, RewardError> {
        let problem = "cannot be asked: this build has no HTTP client (feature `hub` of the program has one)";
        Err(error(&config, problem.into()))
    }

    /// Unweighted scores; samples without one get the declared fallback.
    ///
    /// # Errors
    /// [`RewardError::Source`], which says what the server did.
    pub fn run(&mut self, samples: &[TextSample<'_>]) -> Result<Vec<f64>, RewardError> {
        let (mut answers, mut failed) = (Answers::default(), 0);
        for chunk in samples.chunks(self.config.batch) {
            if failed == DEAD {
                answers.scores.resize(samples.len(), None);
                break;
            }
            let retries = if failed == 0 { self.config.retries } else { 0 };
            let (scores, why) = match self.ask(chunk, retries) {
                Ok(scores) => {
                    failed = 0;
                    let usable = |x: &Option<f64>| x.filter(|x| is_usable(*x, self.config.weight));
                    let scores: Vec<Option<f64>> = scores.iter().map(usable).collect();
                    let missing = scores.iter().position(Option::is_none);
                    let problem = |i| format!("gave no finite score for sample {i} of its {}", chunk.len());
                    (scores, missing.map(problem))
                }
                Err(problem) => {
                    failed += 1;
                    (vec![None; chunk.len()], Some(problem))
                }
            };
            answers.scores.extend(scores);
            answers.why = answers.why.or(why.map(|p| error(&self.config, p)));
        }
        self.settled.settle(&self.config.name, self.config.on_failure, answers)
    }

    /// One request, with further attempts.
    fn ask(&self, samples: &[TextSample<'_>], retries: u32) -> Result<Vec<Option<f64>>, String> {
        let body = body(self.config.protocol, samples).to_string();
        let mut attempt = 0;
        loop {
            let failed = match self.post(&body) {
                Ok(text) => return parse(&text, samples.len()),
                Err(failed) => failed,
            };
            if !failed.again || attempt == retries {
                let attempts =
                    if attempt == 0 { String::new() } else { format!(" ({} attempts)", attempt + 1) };
                return Err(format!("{}{attempts}", failed.problem));
            }
            let pause = 0.1 * f64::from(1u32 << attempt.min(6));
            std::thread::sleep(std::time::Duration::from_secs_f64(pause.min(self.config.timeout_s)));
            attempt += 1;
        }
    }

    #[cfg(feature = "http")]
    fn post(&self, body: &str) -> Result<String, Failed> {
        let sent = self.agent.post(&self.config.url).header("content-type", "application/json").send(body);
        let transport = |e: ureq::Error| Failed {
            problem: match e {
                ureq::Error::Timeout(_) => {
                    format!("did not answer within {} s (timeout_s)", self.config.timeout_s)
                }
                ureq::Error::TlsRequired => "speaks https, which this build cannot".into(),
                e => format!("cannot be asked: {e}"),
            },
            again: true,
        };
        let mut answer = sent.map_err(transport)?;
        let status = answer.status();
        let text = answer.body_mut().with_config().limit(MOST).read_to_string().map_err(transport)?;
        if status.is_success() {
            return Ok(text);
        }
        let again = status.as_u16() == 429 || status.is_server_error();
        Err(Failed {
            problem: format!("answered with status {}: {}", status.as_u16(), shorten(&text, 120)),
            again,
        })
    }

    #[cfg(not(feature = "http"))]
    fn post(&self, _: &str) -> Result<String, Failed> {
        Err(Failed { problem: "cannot be asked".into(), again: false })
    }
}

fn error(config: &HttpConfig, problem: String) -> RewardError {
    RewardError::Source { rule: config.name.clone(), who: format!("the server {}", config.url), problem }
}

fn body(protocol: Protocol, samples: &[TextSample<'_>]) -> Value {
    let list = |of: &dyn Fn(&TextSample<'_>) -> Value| samples.iter().map(of).collect::<Vec<Value>>();
    // The rendered conversation, where the prompt is one.
    let prompt = |s: &TextSample<'_>| match s.rendered {
        "" => s.prompt.to_owned(),
        rendered => rendered.to_owned(),
    };
    match protocol {
        Protocol::Openrlhf => json!({
            "query": list(&|s| json!(prompt(s) + s.response)),
            "prompts": list(&|s| json!(prompt(s))),
            "labels": list(&|s| json!(s.answer)),
        }),
        Protocol::Trl => json!({
            "prompts": list(&|s| if s.messages.is_empty() { json!(s.prompt) } else { json!(s.messages) }),
            "completions": list(&|s| match s.messages {
                [] => json!(s.response),
                _ => json!([{"role": "assistant", "content": s.response}]),
            }),
            "answer": list(&|s| json!(s.answer)),
            "domain": list(&|s| json!(s.domain)),
        }),
    }
}

/// The scores of an answer; None for what is no number (Python's `json` writes NaN as a bare word).
fn parse(text: &str, expected: usize) -> Result<Vec<Option<f64>>, String> {
    let quoted;
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(e) => {
            quoted =
                ["-Infinity", "Infinity", "NaN"].iter().fold(text.to_owned(), |t, w| t.replace(w, "null"));
            serde_json::from_str(&quoted)
                .map_err(|_| format!("answered no JSON ({e}): {}", shorten(text, 120)))?
        }
    };
    let list = ["rewards", "scores", "reward"].iter().find_map(|key| value.get(key)).unwrap_or(&value);
    let Value::Array(list) = list else {
        return Err(format!("answered without a list `rewards`: {}", shorten(text, 120)));
    };
    if list.len() != expected {
        return Err(format!("answered with {} scores for {expected} samples", list.len()));
    }
    let number = |v: &Value| match v {
        Value::Array(one) if one.len() == 1 => one[0].as_f64(),
        v => v.as_f64(),
    };
    Ok(list.iter().map(number).collect())
}

impl Score for HttpRule {
    fn score(&mut self, samples: &[TextSample<'_>]) -> Result<Vec<NamedScore>, BoxError> {
        let scores = self.run(samples)?;
        Ok(part(&self.config.name, self.config.weight, scores))
    }

    fn fallbacks(&self) -> Vec<Fallback> {
        self.settled.fallbacks.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetherline_core::Message;

    #[test]
    fn what_is_sent() {
        let messages = [Message::user("1+1?")];
        let plain =
            TextSample { prompt: "p ", response: "r", answer: "a", domain: "d", ..Default::default() };
        let chat = TextSample {
            prompt: "1+1?",
            messages: &messages,
            rendered: "<u>1+1?<a>",
            response: "2",
            ..Default::default()
        };
        assert_eq!(
            body(Protocol::Openrlhf, &[plain, chat]),
            json!({"query": ["p r", "<u>1+1?<a>2"], "prompts": ["p ", "<u>1+1?<a>"], "labels": ["a", ""]})
        );
        assert_eq!(
            body(Protocol::Trl, &[plain, chat]),
            json!({"prompts": ["p ", [{"role": "user", "content": "1+1?"}]],
                "completions": ["r", [{"role": "assistant", "content": "2"}]],
                "answer": ["a", ""], "domain": ["d", ""]})
        );
    }

    #[test]
    fn what_is_understood() {
        let good = [Some(1.5), Some(-2.0)];
        for text in [
            r#"{"rewards": [1.5, -2], "extra_logs": {}}"#,
            r#"{"scores": [[1.5], [-2.0]]}"#,
            "[1.5, -2]",
            r#"{"reward": [1.5, -2]}"#,
        ] {
            assert_eq!(parse(text, 2).unwrap(), good, "{text}");
        }
        assert_eq!(parse(r#"{"rewards": [NaN, null, "x", 1]}"#, 4).unwrap(), [None, None, None, Some(1.0)]);
        for (text, said) in [
            ("<html>busy</html>", "answered no JSON"),
            (r#"{"detail": "x"}"#, "answered without a list `rewards`"),
            ("[1]", "answered with 1 scores for 2 samples"),
        ] {
            let error = parse(text, 2).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
