//! Command rule: a program of the user's scores the responses.
//!
//! The program is started once per batch, without a shell. It reads one JSON object per line,
//!
//! ```text
//! {"prompt": "…", "response": "…", "domain": "…"}
//! ```
//!
//! and writes one per line, in the same order: `1.5`, or `{"score": 1.5}` (more keys are ignored). Blank lines are
//! skipped. It must exit with status 0. What it writes to standard error is quoted when it fails.
//!
//! Where the recipe says what stands in for a missing score (`on_failure`), the lines that were written before the program
//! failed or its time was up still count, in order. With `sample_timeout_s` a sample that it stalls or ends at costs its own score
//! alone: the program is started anew for those behind it.
//!
//! How it is run: `process.rs`.

use crate::process::{Process, Replies};
use crate::source::{Answers, Settled, is_usable, part};
use crate::{CommandConfig, RewardError};
use serde::{Deserialize, Serialize};
use tetherline_core::{BoxError, Fallback, NamedScore, Score, TextSample};

/// A command rule.
#[derive(Clone, Debug)]
pub struct CommandRule {
    config: CommandConfig,
    settled: Settled,
}

#[derive(Serialize)]
struct Request<'a> {
    prompt: &'a str,
    response: &'a str,
    domain: &'a str,
}

/// A line of the program: the number alone, or an object with it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Reply {
    Number(f64),
    Object { score: f64 },
}

/// The score on a line; NaN where the program wrote `NaN`, `Infinity` or `null`, as Python's `json` does.
fn parse_reply(line: &str) -> Option<f64> {
    let bare = |text: &str| {
        serde_json::from_str(text).ok().map(|r| match r {
            Reply::Number(x) | Reply::Object { score: x } => x,
        })
    };
    let marked = || {
        let word =
            ["-Infinity", "Infinity", "NaN", "null", "nan", "inf"].into_iter().find(|w| line.contains(w))?;
        bare(&line.replacen(word, "0", 1)).map(|_| f64::NAN)
    };
    bare(line).or_else(marked)
}

impl CommandRule {
    /// The rule of a validated configuration. Nothing is started yet.
    pub fn new(config: CommandConfig) -> Self {
        Self { config, settled: Settled::default() }
    }

    /// Unweighted scores, one per sample.
    ///
    /// # Errors
    /// [`RewardError::Command`], which says what the program did.
    pub fn run(&mut self, samples: &[TextSample<'_>]) -> Result<Vec<f64>, RewardError> {
        let requests: Vec<Request<'_>> = samples
            .iter()
            .map(|s| Request { prompt: s.prompt, response: s.response, domain: s.domain })
            .collect();
        let Replies { rows, why } = self.replies(&requests)?;
        self.settled.settle(&self.config.name, self.config.on_failure, Answers { scores: rows, why })
    }

    /// The numbers that the program answers to these rows, one JSON object a line: what [`CommandRule::run`] does with
    /// samples, with no stand-in for a number that does not come.
    ///
    /// # Errors
    /// As [`CommandRule::run`].
    pub fn ask<T: Serialize>(&self, rows: &[T]) -> Result<Vec<f64>, RewardError> {
        let Replies { rows, why } = self.replies(rows)?;
        match why {
            Some(why) => Err(why),
            None => Ok(rows.into_iter().flatten().collect()),
        }
    }

    fn replies<T: Serialize>(&self, rows: &[T]) -> Result<Replies<f64>, RewardError> {
        let CommandConfig { name, argv, timeout_s, sample_timeout_s, .. } = &self.config;
        let process = Process { name, argv, timeout_s: *timeout_s, sample_timeout_s: *sample_timeout_s };
        process.ask(rows, |line| match parse_reply(line) {
            None => Err("expected a number or {\"score\": NUMBER}".to_owned()),
            Some(x) if !is_usable(x, self.config.weight) => Err("the score is not finite".to_owned()),
            Some(x) => Ok(x),
        })
    }
}

impl Score for CommandRule {
    fn score(&mut self, samples: &[TextSample<'_>]) -> Result<Vec<NamedScore>, BoxError> {
        let scores = self.run(samples)?;
        Ok(part(&self.config.name, self.config.weight, scores))
    }

    fn fallbacks(&self) -> Vec<Fallback> {
        self.settled.fallbacks.clone()
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn rule(script: &str, timeout_s: f64) -> CommandRule {
        let argv = ["sh", "-c", script].map(String::from).to_vec();
        let on_failure = crate::OnFailure::Stop;
        CommandRule::new(CommandConfig {
            name: "judge".into(),
            weight: 2.0,
            argv,
            timeout_s,
            sample_timeout_s: None,
            on_failure,
        })
    }

    fn sample(response: &str) -> TextSample<'_> {
        TextSample {
            prompt: "say \"hi\"\n",
            messages: &[],
            response,
            prompt_tokens: &[],
            response_tokens: &[],
            domain: "all",
            answer: "",
            rendered: "",
        }
    }

    fn failure(script: &str) -> String {
        rule(script, 20.0).run(&[sample("a"), sample("b")]).unwrap_err().to_string()
    }

    #[test]
    fn scores_come_back_in_order_and_weighted() {
        let script = r#"while read -r line; do case "$line" in *'"response":"good'*) echo '{"score": 1.5, "why": "ok"}';; *) echo '{"score": -1}';; esac; done"#;
        let parts = rule(script, 20.0).score(&[sample("good one"), sample("bad"), sample("good")]).unwrap();
        assert_eq!(parts[0].name, "rule.judge");
        assert_eq!(parts[0].values, [3.0, -2.0, 3.0]);
        assert!(rule("exit 1", 20.0).run(&[]).unwrap().is_empty());
        let mut bare = rule("cat >/dev/null; echo 0.79; echo ' -2'", 20.0);
        assert_eq!(bare.run(&[sample("a"), sample("b")]).unwrap(), [0.79, -2.0]);
    }

    /// 4 MB each way, far above any pipe buffer, echoed line by line.
    #[test]
    fn big_batches_do_not_deadlock() {
        let long = "x".repeat(4000);
        let samples = vec![sample(&long); 1000];
        let script = r#"sed 's/^{/{"score": 1, /'"#;
        assert_eq!(rule(script, 60.0).run(&samples).unwrap(), vec![1.0; 1000]);
        // A program that never reads its input and answers anyway.
        let script = r#"i=0; while [ $i -lt 1000 ]; do echo '{"score": 2}'; i=$((i+1)); done"#;
        assert_eq!(rule(script, 60.0).run(&samples).unwrap(), vec![2.0; 1000]);
    }

    #[test]
    fn failures_say_what_happened() {
        let cases = [
            ("cat >/dev/null; echo broken model >&2; exit 3", "exit status: 3"),
            ("cat >/dev/null; echo broken model >&2; exit 3", "; it wrote: broken model"),
            ("cat >/dev/null; echo '{\"score\": 1}'", "wrote 1 lines for 2 samples"),
            ("cat >/dev/null; echo '{\"score\": 1}'; echo oops", "wrote `oops` on line 2: expected"),
            ("cat >/dev/null; echo '{\"score\": NaN}'", "the score is not finite"),
            ("cat >/dev/null; echo '{\"score\": null}'", "the score is not finite"),
            ("cat >/dev/null; echo NaN", "the score is not finite"),
            ("cat >/dev/null; echo '{\"score\": 1e300}'; echo '{\"score\": 1}'", "the score is not finite"),
            ("cat >/dev/null; echo '{\"points\": 1}'", "expected a number or"),
        ];
        for (script, expected) in cases {
            let error = failure(script);
            assert!(error.contains(expected) && error.starts_with("rule judge: command `sh"), "{error}");
        }
        let mut missing = rule("", 1.0);
        missing.config.argv = vec!["/no/such/program".into()];
        let error = missing.run(&[sample("a")]).unwrap_err().to_string();
        assert!(error.contains("cannot be started"), "{error}");
    }

    /// Neither a sleeping child nor a grandchild that holds the pipes open keeps us waiting.
    #[test]
    fn a_slow_program_is_killed() {
        for script in ["exec sleep 30", "sleep 30; echo", "echo started >&2; exec >&-; sleep 30"] {
            let start = Instant::now();
            let error = rule(script, 0.3).run(&[sample("a")]).unwrap_err().to_string();
            assert!(error.contains("did not finish within 0.3 s"), "{error}");
            assert!(start.elapsed() < Duration::from_secs(10), "{script}");
        }
    }

    /// What was written before the time was up, or the program failed, counts; the rest gets the stand-in.
    #[test]
    fn a_stand_in_takes_the_place_of_what_is_missing() {
        let samples = [sample("a"), sample("b"), sample("c")];
        for (script, want, rows) in [
            ("echo 1; echo 2; echo 3.5; sleep 30", [1.0, 2.0, 3.5], vec![]),
            ("echo 1; echo 2; printf 3; exec sleep 30", [1.0, 2.0, -9.0], vec![2]),
            ("echo 1; echo '{\"score\": NaN}'; echo 3", [1.0, -9.0, 3.0], vec![1]),
            ("echo 1; echo oops >&2; exit 3", [1.0, -9.0, -9.0], vec![1, 2]),
        ] {
            let mut rule = rule(script, 0.5);
            rule.config.on_failure = crate::OnFailure::Score(-9.0);
            assert_eq!(rule.run(&samples).unwrap(), want, "{script}");
            let missing: Vec<usize> = rule.fallbacks().into_iter().flat_map(|f| f.rows).collect();
            assert_eq!(missing, rows, "{script}");
        }
        let mut never = rule("exit 1", 5.0);
        never.config.on_failure = crate::OnFailure::Score(0.0);
        assert!(never.run(&samples).unwrap_err().to_string().contains("failed: exit status: 1"));
    }
    /// One sample that is never answered, and one at which the program dies, cost themselves and their time; what was started
    /// for them is gone.
    #[test]
    fn a_slow_sample_costs_its_own_time_and_score() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!(
            r#"echo $$ >>{}; while read -r l; do case "$l" in *'"slow"'*) sleep 60;; *'"dead"'*) exit 3;; *) echo 1.5;; esac; done"#,
            file.path().display()
        );
        let mut rule = rule(&script, 60.0);
        rule.config.sample_timeout_s = Some(0.5);
        let samples = ["a", "slow", "b", "dead", "c", "slow", "slow", "d"].map(sample);
        let start = Instant::now();
        let error = rule.run(&samples).unwrap_err().to_string();
        assert!(error.contains("wrote no line for 0.5 s (sample_timeout_s)"), "{error}");
        rule.config.on_failure = crate::OnFailure::Score(-9.0);
        assert_eq!(rule.run(&samples).unwrap(), [1.5, -9.0, 1.5, -9.0, 1.5, -9.0, -9.0, 1.5]);
        assert_eq!(rule.fallbacks()[0].rows, [1, 3, 5, 6]);
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
        // Five starts a call; none of them lives on.
        let started = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(started.lines().count(), 10);
        let lives = |pid: &str| std::path::Path::new("/proc").join(pid).is_dir();
        assert!(!started.lines().any(lives), "{started}");

        // Whoever does not answer at all is not started for every sample.
        std::fs::write(file.path(), "").unwrap();
        assert_eq!(rule.run(&["slow"; 8].map(sample)).unwrap(), [-9.0; 8]);
        assert_eq!(std::fs::read_to_string(file.path()).unwrap().lines().count(), 3);
    }
}
