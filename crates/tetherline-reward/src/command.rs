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
//! Writing and reading run on threads of their own, so a program may write before it has read everything,
//! or read nothing at all, whatever the size of the system's pipes. After `timeout_s` it is killed. The
//! clock decides about nothing but that.

use crate::{CommandConfig, RewardError};
use serde::{Deserialize, Serialize};
use std::io::{BufWriter, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};
use tetherline_core::{BoxError, NamedScore, Score, TextSample};

/// How much of standard error is quoted.
const STDERR_TAIL: usize = 500;

/// A command rule.
#[derive(Clone, Debug)]
pub struct CommandRule {
    config: CommandConfig,
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
        Self { config }
    }

    /// Unweighted scores, one per sample.
    ///
    /// # Errors
    /// [`RewardError::Command`], which says what the program did.
    pub fn run(&self, samples: &[TextSample<'_>]) -> Result<Vec<f64>, RewardError> {
        let request = |i: usize| {
            let TextSample { prompt, response, domain, .. } = samples[i];
            Request { prompt, response, domain }
        };
        self.ask(&(0..samples.len()).map(request).collect::<Vec<_>>())
    }

    /// The numbers that the program answers to these rows, one JSON object a line: what [`CommandRule::run`] does with
    /// samples.
    ///
    /// # Errors
    /// As [`CommandRule::run`].
    pub fn ask<T: Serialize>(&self, rows: &[T]) -> Result<Vec<f64>, RewardError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let (status, stdout, stderr) = self.exchange(self.requests(rows)?)?;
        let fail = |problem: String| self.error(problem, &stderr);
        if !status.success() {
            return Err(fail(format!("failed: {status}")));
        }
        let text = String::from_utf8_lossy(&stdout);
        let mut scores = Vec::with_capacity(rows.len());
        for (line, reply) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let at = format!("wrote `{}` on line {}", shorten(reply), line + 1);
            let score = parse_reply(reply)
                .ok_or_else(|| fail(format!("{at}, expected a number or {{\"score\": NUMBER}}")))?;
            if !(score.is_finite() && ((score * self.config.weight) as f32).is_finite()) {
                return Err(fail(format!("{at}: the score is not finite")));
            }
            scores.push(score);
        }
        if scores.len() != rows.len() {
            let (got, expected) = (scores.len(), rows.len());
            return Err(fail(format!(
                "wrote {got} scores for {expected} samples; one line each is expected"
            )));
        }
        Ok(scores)
    }

    fn requests<T: Serialize>(&self, rows: &[T]) -> Result<Vec<u8>, RewardError> {
        let mut lines = Vec::new();
        for row in rows {
            serde_json::to_writer(&mut lines, row)
                .map_err(|e| self.error(format!("was given a sample that is no JSON: {e}"), b""))?;
            lines.push(b'\n');
        }
        Ok(lines)
    }

    /// Runs the program to its end: exit status, standard output, standard error.
    fn exchange(&self, input: Vec<u8>) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), RewardError> {
        let limit = Duration::from_secs_f64(self.config.timeout_s);
        let deadline = Instant::now() + limit;
        let late = || format!("did not finish within {} s (timeout_s) and was killed", self.config.timeout_s);
        let (program, arguments) = match self.config.argv.split_first() {
            Some(parts) => parts,
            None => return Err(self.error("is empty".into(), b"")),
        };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| self.error(format!("cannot be started: {e}"), b""))?;

        if let Some(stdin) = child.stdin.take() {
            // A program that stops reading closes the pipe; its exit status and scores tell the rest.
            thread::spawn(move || BufWriter::new(stdin).write_all(&input));
        }
        let stdout = read_to_end(child.stdout.take());
        let stderr = read_to_end(child.stderr.take());

        let remaining = || deadline.saturating_duration_since(Instant::now());
        let Ok(out) = stdout.recv_timeout(remaining()) else {
            return Err(self.kill(&mut child, late(), &stderr));
        };
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if remaining().is_zero() => return Err(self.kill(&mut child, late(), &stderr)),
                Ok(None) => thread::sleep(Duration::from_millis(1)),
                Err(e) => return Err(self.kill(&mut child, format!("cannot be waited for: {e}"), &stderr)),
            }
        };
        let err = stderr.recv_timeout(remaining().min(Duration::from_secs(1))).unwrap_or_default();
        Ok((status, out, err))
    }

    /// Ends the child; its pipes may live on in grandchildren, so their readers are not waited for.
    fn kill(&self, child: &mut Child, problem: String, stderr: &Receiver<Vec<u8>>) -> RewardError {
        // Both fail only where the child is gone already.
        let _ = child.kill();
        let _ = child.wait();
        let said = stderr.recv_timeout(Duration::from_millis(200)).unwrap_or_default();
        self.error(problem, &said)
    }

    fn error(&self, problem: String, stderr: &[u8]) -> RewardError {
        let text = String::from_utf8_lossy(stderr);
        let text = text.trim();
        let start = text.char_indices().rev().nth(STDERR_TAIL - 1).map_or(0, |(i, _)| i);
        let stderr = if text.is_empty() { String::new() } else { format!("; it wrote: {}", &text[start..]) };
        let command = self.config.argv.join(" ");
        RewardError::Command { rule: self.config.name.clone(), command, problem, stderr }
    }
}

fn read_to_end(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before a read error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = send.send(bytes);
    });
    receive
}

fn shorten(line: &str) -> String {
    match line.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

impl Score for CommandRule {
    fn score(&mut self, samples: &[TextSample<'_>]) -> Result<Vec<NamedScore>, BoxError> {
        let weight = self.config.weight;
        let values = self.run(samples)?.into_iter().map(|x| (weight * x) as f32).collect();
        Ok(vec![NamedScore { name: format!("rule.{}", self.config.name), values }])
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn rule(script: &str, timeout_s: f64) -> CommandRule {
        let argv = ["sh", "-c", script].map(String::from).to_vec();
        CommandRule::new(CommandConfig { name: "judge".into(), weight: 2.0, argv, timeout_s })
    }

    fn sample(response: &str) -> TextSample<'_> {
        TextSample {
            prompt: "say \"hi\"\n",
            messages: &[],
            response,
            prompt_tokens: &[],
            response_tokens: &[],
            domain: "all",
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
        let bare = rule("cat >/dev/null; echo 0.79; echo ' -2'", 20.0);
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
            ("cat >/dev/null; echo '{\"score\": 1}'", "wrote 1 scores for 2 samples"),
            ("cat >/dev/null; echo '{\"score\": 1}'; echo oops", "wrote `oops` on line 2, expected"),
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
}
