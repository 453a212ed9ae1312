//! `[[reward.rule]]` of a recipe: what scores beside, or instead of, a reward model.
//!
//! A rule is one table per entry, named by its kind:
//!
//! ```toml
//! [[rule]]
//! keyword = { name = "cheer", words = ["happy", "smile"], cap = 5, weight = 1.0 }
//!
//! [[rule]]
//! length = { max = 64, scale = 16, weight = 0.5 }
//!
//! [[rule]]
//! http = { url = "http://127.0.0.1:5000/get_reward", on_failure = { score = 0.0 } }
//! ```

use crate::EncoderConfig;
use crate::config::{at_least_one, need, positive, sample_seconds};
use serde::{Deserialize, Serialize};
use tetherline_core::FieldError;

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleConfig {
    /// Counts words.
    Keyword(KeywordConfig),
    /// Counts matches of a regular expression.
    Regex(RegexConfig),
    /// Penalises length outside a range.
    Length(LengthConfig),
    /// Asks a program.
    Command(CommandConfig),
    /// Asks a server.
    Http(HttpConfig),
    /// Compares with the prompt's answer.
    Exact(ExactConfig),
    /// Runs the response with the prompt's tests.
    Program(ProgramConfig),
    /// Asks a frozen sequence classifier.
    Encoder(EncoderConfig),
}

/// Counts substrings: `weight · min(cap, occurrences)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeywordConfig {
    /// Name of the part of the score: `rule.<name>`.
    #[serde(default = "keyword_name")]
    pub name: String,
    /// Factor; negative to penalise.
    #[serde(default = "one")]
    pub weight: f64,
    /// Substrings to look for.
    pub words: Vec<String>,
    /// Highest count; none: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<u64>,
    /// Count every occurrence; false: every word at most once.
    #[serde(default = "yes")]
    pub per_occurrence: bool,
    /// Compare in lower case.
    #[serde(default = "yes")]
    pub case_insensitive: bool,
}

/// Counts matches: `weight · min(cap, matches)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegexConfig {
    /// Name of the part of the score: `rule.<name>`.
    #[serde(default = "regex_name")]
    pub name: String,
    /// Factor; negative to penalise.
    #[serde(default = "one")]
    pub weight: f64,
    /// The pattern (syntax of the `regex` crate; `(?i)`, `(?s)` and `(?m)` set flags).
    pub pattern: String,
    /// Highest count. The default 1 makes it "matches or not".
    #[serde(default = "one_match")]
    pub cap: u64,
}

/// Penalises length: `−weight · (distance from [min, max]) / scale`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthConfig {
    /// Name of the part of the score: `rule.<name>`.
    #[serde(default = "length_name")]
    pub name: String,
    /// Factor; negative to reward distance.
    #[serde(default = "one")]
    pub weight: f64,
    /// What is counted.
    #[serde(default)]
    pub unit: LengthUnit,
    /// Shortest length without a penalty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u64>,
    /// Longest length without a penalty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// Shorthand for `min` and `max` both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<u64>,
    /// Units of distance that cost one `weight`.
    #[serde(default = "one")]
    pub scale: f64,
}

/// What a length is measured in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LengthUnit {
    /// Response tokens, EOS included.
    #[default]
    Tokens,
    /// Words separated by white space.
    Words,
    /// Unicode scalar values.
    Chars,
}

/// Asks a program: `weight · score`. See `command.rs` for what it reads and writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// Name of the part of the score: `rule.<name>`.
    #[serde(default = "command_name")]
    pub name: String,
    /// Factor.
    #[serde(default = "one")]
    pub weight: f64,
    /// Program and arguments; no shell is involved.
    pub argv: Vec<String>,
    /// Seconds a batch may take.
    #[serde(default = "minute")]
    pub timeout_s: f64,
    /// Seconds a sample may take, from one line to the next (the first with what starting takes); absent: `timeout_s` alone.
    /// For programs that answer line by line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_timeout_s: Option<f64>,
    /// What a sample without a score gets.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// What happens where a source gives no score for a sample: it is dead, late, or wrote something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The run stops; it can be resumed from its last checkpoint.
    #[default]
    Stop,
    /// The sample gets this (unweighted) score and is counted. A source that never gave any score stops the run all
    /// the same.
    Score(f64),
}

impl OnFailure {
    fn validate(self) -> Result<(), FieldError> {
        match self {
            Self::Stop => Ok(()),
            Self::Score(x) => need(x.is_finite(), "on_failure.score", &x, "finite"),
        }
    }
}

/// Asks a server: `weight · score`. See `http.rs` for what is sent and answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Name of the part of the score: `rule.<name>`.
    #[serde(default = "http_name")]
    pub name: String,
    /// Factor.
    #[serde(default = "one")]
    pub weight: f64,
    /// Where the requests go.
    pub url: String,
    /// What they look like.
    #[serde(default)]
    pub protocol: Protocol,
    /// Samples per request.
    #[serde(default = "batch_of")]
    pub batch: usize,
    /// Seconds a request may take, from connecting to the last byte.
    #[serde(default = "minute")]
    pub timeout_s: f64,
    /// Further attempts after a connection that failed, or a status of 429 or 5xx.
    #[serde(default = "two")]
    pub retries: u32,
    /// What a sample without a score gets.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// A protocol that reward servers speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// OpenRLHF's remote reward model: `query`, `prompts`, `labels` → `rewards`.
    #[default]
    Openrlhf,
    /// The arguments of a reward function of TRL as JSON: `prompts`, `completions`, `answer`, `domain` → `rewards`.
    Trl,
}

/// Whether the response gives the prompt's answer: `weight · (0 or 1)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExactConfig {
    /// Name of the part of the score: `rule.<name>`.
    #[serde(default = "exact_name")]
    pub name: String,
    /// Factor.
    #[serde(default = "one")]
    pub weight: f64,
    /// What of the response is compared: the first group (or all) of the last match. Absent: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract: Option<String>,
    /// Compare as numbers: `1,000.0` is `1000`.
    #[serde(default)]
    pub numeric: bool,
    /// Compare in lower case.
    #[serde(default)]
    pub case_insensitive: bool,
}

/// Whether the response, a program, passes the prompt's tests: `weight · (0 or 1)`. See `program.rs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramConfig {
    /// Name of the part of the score: `rule.<name>`.
    #[serde(default = "program_name")]
    pub name: String,
    /// Factor.
    #[serde(default = "one")]
    pub weight: f64,
    /// The interpreter and its arguments, run where `file` is; no shell is involved.
    pub argv: Vec<String>,
    /// Name of the file that the program and the tests are written to.
    #[serde(default = "main_py")]
    pub file: String,
    /// The statement behind the tests: prints `{token}` on a line of its own. Absent: by the ending of `file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<String>,
    /// Seconds a sample may take.
    #[serde(default = "ten")]
    pub timeout_s: f64,
    /// Seconds of CPU time that a process may use.
    #[serde(default = "ten_s")]
    pub cpu_s: u64,
    /// Address space of a process, MiB.
    #[serde(default = "half_a_gig")]
    pub memory_mb: u64,
    /// Samples that are run at once; 0: one per core.
    #[serde(default)]
    pub parallel: usize,
    /// What a sample gets where the sandbox itself failed. A program that fails its tests has failed: 0.
    #[serde(default)]
    pub on_failure: OnFailure,
}

fn keyword_name() -> String {
    "keyword".into()
}
fn regex_name() -> String {
    "regex".into()
}
fn length_name() -> String {
    "length".into()
}
fn command_name() -> String {
    "command".into()
}
impl ProgramConfig {
    /// The statement behind the tests, with `{token}` in it; empty for a language that is not known.
    pub(crate) fn last_statement(&self) -> &str {
        match (&self.done, self.file.rsplit_once('.')) {
            (Some(done), _) => done,
            (None, Some((_, "py"))) => "print(\"\\n{token}\")",
            (None, Some((_, "sh"))) => "echo; echo {token}",
            (None, Some((_, "js"))) => "console.log(\"\\n{token}\")",
            _ => "",
        }
    }
}

fn http_name() -> String {
    "http".into()
}
fn exact_name() -> String {
    "exact".into()
}
fn program_name() -> String {
    "program".into()
}
fn main_py() -> String {
    "main.py".into()
}
fn batch_of() -> usize {
    64
}
fn two() -> u32 {
    2
}
fn ten() -> f64 {
    10.0
}
fn ten_s() -> u64 {
    10
}
fn half_a_gig() -> u64 {
    512
}
fn one() -> f64 {
    1.0
}
fn one_match() -> u64 {
    1
}
fn yes() -> bool {
    true
}
fn minute() -> f64 {
    60.0
}

impl RuleConfig {
    /// Name of the rule, without the `rule.` of the score's part.
    pub fn name(&self) -> &str {
        match self {
            Self::Keyword(c) => &c.name,
            Self::Regex(c) => &c.name,
            Self::Length(c) => &c.name,
            Self::Command(c) => &c.name,
            Self::Http(c) => &c.name,
            Self::Exact(c) => &c.name,
            Self::Program(c) => &c.name,
            Self::Encoder(c) => &c.name,
        }
    }

    /// Its factor in the score.
    pub fn weight(&self) -> f64 {
        match self {
            Self::Keyword(c) => c.weight,
            Self::Regex(c) => c.weight,
            Self::Length(c) => c.weight,
            Self::Command(c) => c.weight,
            Self::Http(c) => c.weight,
            Self::Exact(c) => c.weight,
            Self::Program(c) => c.weight,
            Self::Encoder(c) => c.weight,
        }
    }

    /// Whether it wants conversations as the policy reads them ([`tetherline_core::TextSample::rendered`]).
    pub fn wants_rendered(&self) -> bool {
        matches!(self, Self::Http(HttpConfig { protocol: Protocol::Openrlhf, .. }))
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The first field that is out of range.
    pub fn validate(&self) -> Result<(), FieldError> {
        need(!self.name().is_empty(), "name", &"\"\"", "a name")?;
        need(self.weight().is_finite(), "weight", &self.weight(), "finite")?;
        match self {
            Self::Keyword(c) => {
                let good = !c.words.is_empty() && c.words.iter().all(|w| !w.is_empty());
                need(good, "words", &format!("{:?}", c.words), "a list of non-empty words")?;
                at_least_one("cap", c.cap.unwrap_or(1))
            }
            Self::Regex(c) => {
                at_least_one("cap", c.cap)?;
                regex::Regex::new(&c.pattern)
                    .map(|_| ())
                    .map_err(|e| FieldError::new("pattern", format!("is not a regular expression: {e}")))
            }
            Self::Length(c) => {
                positive("scale", c.scale)?;
                match (c.target, c.min, c.max) {
                    (Some(_), None, None) => Ok(()),
                    (Some(_), _, _) => {
                        Err(FieldError::new("target", "stands for `min` and `max`; give one or the other"))
                    }
                    (None, None, None) => Err(FieldError::new("min", "give `min`, `max` or `target`")),
                    (None, Some(min), Some(max)) => {
                        need(min <= max, "min", &min, &format!("at most max ({max})"))
                    }
                    (None, _, _) => Ok(()),
                }
            }
            Self::Command(c) => {
                program(&c.argv)?;
                c.on_failure.validate()?;
                seconds("timeout_s", c.timeout_s)?;
                sample_seconds(c.sample_timeout_s, c.timeout_s)
            }
            Self::Http(c) => {
                let good = ["http://", "https://"].iter().any(|scheme| {
                    c.url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
                });
                need(good, "url", &format!("{:?}", c.url), "http://HOST[:PORT]/PATH or https://…")?;
                at_least_one("batch", c.batch as u64)?;
                need(c.retries <= 100, "retries", &c.retries, "at most 100")?;
                c.on_failure.validate()?;
                seconds("timeout_s", c.timeout_s)
            }
            Self::Encoder(c) => c.validate(),
            Self::Exact(c) => match &c.extract {
                None => Ok(()),
                Some(pattern) => regex::Regex::new(pattern)
                    .map(|_| ())
                    .map_err(|e| FieldError::new("extract", format!("is not a regular expression: {e}"))),
            },
            Self::Program(c) => {
                program(&c.argv)?;
                let plain = !c.file.is_empty() && !c.file.contains(['/', '\0']) && !c.file.starts_with('.');
                need(plain, "file", &format!("{:?}", c.file), "the name of a file, without directories")?;
                let problem = "give the statement that prints {token} on a line of its own, in the language of the program";
                if !c.last_statement().contains("{token}") {
                    return Err(FieldError::new("done", problem));
                }
                need(c.memory_mb >= 16, "memory_mb", &c.memory_mb, "at least 16")?;
                need(c.parallel <= 256, "parallel", &c.parallel, "at most 256 (0: every core)")?;
                seconds("cpu_s", c.cpu_s as f64)?;
                c.on_failure.validate()?;
                seconds("timeout_s", c.timeout_s)
            }
        }
    }
}

fn program(argv: &[String]) -> Result<(), FieldError> {
    let good = argv.first().is_some_and(|program| !program.is_empty());
    need(good, "argv", &format!("{argv:?}"), "a program and its arguments")
}

/// A day at most: longer ones do not fit a `Duration` for sure and are no doubt a mistake.
fn seconds(field: &str, value: f64) -> Result<(), FieldError> {
    need(value > 0.0 && value <= 86400.0, field, &value, "above 0 and at most 86400")
}
