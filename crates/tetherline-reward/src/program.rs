//! Program rule: does the code in a response pass the tests of its prompt?
//!
//! The program is what stands in the response's last fenced block (```` ```python … ``` ````), or the whole response where
//! there is none. It is written to a file, the prompt's `answer` (the tests) behind it, and behind that a statement that
//! prints a token drawn for this run alone. The file is run in a sandbox (`sandbox.rs`): no network, nothing that can be
//! written to, limits on CPU time, memory and time. With exit status 0 and the token as the last line of the output the
//! tests were reached and passed: 1, else 0, times `weight`. So a program that leaves early (`exit(0)`) has not passed;
//! one that reads its own source for the token would have.

use crate::exact::no_answer;
use crate::sandbox::{self, Ended};
use crate::source::{Answers, Settled, part};
use crate::{ProgramConfig, RewardError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tetherline_core::{BoxError, Fallback, NamedScore, Score, TextSample};

/// A program rule.
#[derive(Debug)]
pub struct ProgramRule {
    config: ProgramConfig,
    settled: Settled,
}

impl ProgramRule {
    /// The rule of a validated configuration.
    ///
    /// # Errors
    /// [`RewardError::Source`] where this machine has no sandbox: nothing is ever run without one.
    pub fn new(config: ProgramConfig) -> Result<Self, RewardError> {
        let rule = Self { config, settled: Settled::default() };
        let probe = ProgramConfig { argv: vec!["true".into()], ..rule.config.clone() };
        sandbox::run(&probe, "", "").map_err(|problem| rule.error(problem))?;
        Ok(rule)
    }

    fn error(&self, problem: String) -> RewardError {
        RewardError::Source { rule: self.config.name.clone(), who: "the sandbox".into(), problem }
    }

    /// Whether each sample's program passes.
    ///
    /// # Errors
    /// [`RewardError::NoAnswer`] for a prompt without tests; [`RewardError::Source`] where the sandbox failed.
    pub fn run(&mut self, samples: &[TextSample<'_>]) -> Result<Vec<f64>, RewardError> {
        if let Some(s) = samples.iter().find(|s| s.answer.is_empty()) {
            return Err(no_answer(&self.config.name, s));
        }
        let every = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if self.config.parallel == 0 { every() } else { self.config.parallel };
        let (next, ended) = (AtomicUsize::new(0), Mutex::new(vec![None; samples.len()]));
        std::thread::scope(|scope| {
            for _ in 0..workers.min(samples.len()) {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        let Some(s) = samples.get(i) else { break };
                        let one = self.one(s.response, s.answer);
                        ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[i] = Some(one);
                    }
                });
            }
        });
        let ended = ended.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut answers = Answers::default();
        for one in ended {
            match one {
                Some(Ok(how)) => answers.scores.push(Some(f64::from(u8::from(how == Ended::Well)))),
                failed => {
                    let problem = failed.and_then(Result::err).unwrap_or_else(|| "did not run".into());
                    answers.scores.push(None);
                    answers.why = answers.why.or_else(|| Some(self.error(problem)));
                }
            }
        }
        self.settled.settle(&self.config.name, self.config.on_failure, answers)
    }

    fn one(&self, response: &str, tests: &str) -> Result<Ended, String> {
        let token = format!("done-{:016x}", RandomState::new().build_hasher().finish());
        let last = self.config.last_statement().replace("{token}", &token);
        sandbox::run(&self.config, &format!("{}\n\n{tests}\n\n{last}\n", code(response)), &token)
    }
}

/// The last fenced block, or everything.
fn code(response: &str) -> &str {
    let mut found = None;
    let mut rest = response;
    while let Some(open) = rest.find("```") {
        let inside = &rest[open + 3..];
        let start = inside.find('\n').map_or(inside.len(), |i| i + 1);
        let body = &inside[start..];
        // A block that never ends goes to the end: the response was cut off.
        let end = body.find("```").unwrap_or(body.len());
        found = Some(&body[..end]);
        rest = body.get(end + 3..).unwrap_or("");
    }
    found.unwrap_or(response)
}

impl Score for ProgramRule {
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
    use std::time::{Duration, Instant};

    #[test]
    fn the_last_fenced_block_is_the_program() {
        assert_eq!(code("x = 1"), "x = 1");
        assert_eq!(code("First:\n```python\nx = 1\n```\nBetter:\n```\nx = 2\n```\nDone."), "x = 2\n");
        assert_eq!(code("```py\nx = 3"), "x = 3");
        assert_eq!(code("```"), "");
    }

    /// A rule over `sh`; none, and said so, where there is no sandbox.
    fn rule(more: &str) -> Option<ProgramRule> {
        let toml = format!("argv = [\"sh\", \"main.sh\"]\nfile = \"main.sh\"\n{more}");
        match ProgramRule::new(toml::from_str(&toml).unwrap()) {
            Ok(rule) => Some(rule),
            Err(e) => {
                eprintln!("SKIPPED: no sandbox: {e}");
                None
            }
        }
    }

    fn sample<'a>(response: &'a str, answer: &'a str) -> TextSample<'a> {
        TextSample { response, answer, ..TextSample::default() }
    }

    #[test]
    fn programs_pass_or_fail_their_tests() {
        let Some(mut rule) = rule("weight = 2.0") else { return };
        let tests = "[ \"$(double 4)\" = 8 ] || exit 1";
        let samples = [
            sample("```sh\ndouble() { echo $(($1 * 2)); }\n```", tests),
            sample("double() { echo $(($1 + 2)); }", tests),
            sample("double() {", tests),
            sample("exit 0", tests),
            sample("echo done-0123456789abcdef; exit 0", tests),
            sample("double() { echo 8; }; echo noise; echo noise >&2", tests),
        ];
        let parts = rule.score(&samples).unwrap();
        assert_eq!(parts[0].values, [2.0, 0.0, 0.0, 0.0, 0.0, 2.0]);
        assert!(rule.fallbacks().is_empty());
        let error = rule.run(&[sample("x", "")]).unwrap_err().to_string();
        assert!(error.contains("`answer`"), "{error}");
    }

    /// Each of these would pass outside the sandbox.
    #[test]
    fn nothing_gets_out() {
        let Some(mut rule) = rule("") else { return };
        let outside = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let marker = outside.path().join("marker");
        let write = format!("echo x > {}", marker.display());
        let samples = [
            sample(&write, "true"),
            sample("echo x > /tmp/inside", "[ -s /tmp/inside ] || exit 1"),
            sample("", "[ \"$(wc -l < /proc/net/dev)\" -gt 3 ] || exit 1"),
            sample("mount -o remount,bind,rw /", "true"),
            sample("", "[ -z \"$CARGO_MANIFEST_DIR\" ] || exit 1"),
            sample("kill -9 -1; kill -9 1", "true"),
        ];
        let passed = rule.run(&samples).unwrap();
        // A failed write or mount alone does not end a script, so look at what there is.
        assert!(!marker.exists());
        assert_eq!((passed[1], passed[2], passed[4]), (1.0, 0.0, 1.0));
        let strict = format!("{write} || exit 1");
        let samples = [sample(&strict, "true"), sample("mount -o remount,bind,rw / || exit 1", "true")];
        assert_eq!(rule.run(&samples).unwrap(), [0.0, 0.0]);
        assert!(!marker.exists());
    }

    #[test]
    fn time_and_memory_are_limited() {
        let Some(mut rule) = rule("timeout_s = 1.5\ncpu_s = 1\nmemory_mb = 64") else { return };
        let start = Instant::now();
        let samples = [
            sample("sleep 30", "true"),
            sample("(sleep 30; echo) & sleep 30", "true"),
            sample("while :; do :; done", "true"),
            sample("x=x; while :; do x=$x$x; done", "true"),
        ];
        assert_eq!(rule.run(&samples).unwrap(), [0.0; 4]);
        assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    }

    /// What a tight limit ends a wide one lets pass: it is the limit that ends it, and no other.
    #[test]
    fn each_limit_is_its_own() {
        let Some(mut wide) = rule("timeout_s = 120\ncpu_s = 100\nmemory_mb = 1024") else { return };
        let memory = "x=$(head -c 50000000 /dev/zero | tr '\\0' x); [ ${#x} = 50000000 ] || exit 1";
        let cpu = "i=0; while [ $i -lt 2000000 ]; do i=$((i+1)); done";
        let [memory, cpu] = [memory, cpu].map(|program| sample(program, "true"));
        assert_eq!(wide.run(&[memory, cpu]).unwrap(), [1.0, 1.0]);
        let with =
            |more: &str, program| rule(more).map(|mut r| r.run(&[program]).unwrap()).unwrap_or_default();
        assert_eq!(with("timeout_s = 120\ncpu_s = 100\nmemory_mb = 64", memory), [0.0]);
        assert_eq!(with("timeout_s = 120\ncpu_s = 1\nmemory_mb = 1024", cpu), [0.0]);
    }

    /// A server of this machine that anyone outside reaches.
    #[test]
    fn there_is_no_network() {
        let Some(mut rule) = rule("timeout_s = 60") else { return };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
        let outside = std::process::Command::new("bash").args(["-c", &connect]).status();
        if !outside.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: no bash that connects");
            return;
        }
        let inside = format!("bash -c '{connect}' || exit 1");
        assert_eq!(rule.run(&[sample(&inside, "true"), sample("bash -c true", "true")]).unwrap(), [0.0, 1.0]);
    }

    #[test]
    fn a_sandbox_that_cannot_be_set_up_is_a_failure_of_the_source() {
        let Some(mut rule) = rule("on_failure = { score = -1.0 }") else { return };
        assert_eq!(rule.run(&[sample("true", "true")]).unwrap(), [1.0]);
        // Longer than the name of a file can be.
        rule.config.file = "x".repeat(300);
        assert_eq!(rule.run(&[sample("true", "true")]).unwrap(), [-1.0]);
        assert_eq!(rule.fallbacks()[0].rows, [0]);
        assert!(rule.fallbacks()[0].why.contains("cannot be set up here"), "{:?}", rule.fallbacks());
    }
}
