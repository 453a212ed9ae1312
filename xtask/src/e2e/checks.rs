//! A list of named checks that goes on after a failure and tells the sum at the end.

use anyhow::{Result, bail};
use std::time::Instant;

/// What has been checked so far.
pub(super) struct Checks {
    only: String,
    passed: usize,
    skipped: usize,
    failed: Vec<String>,
    start: Instant,
}

impl Checks {
    /// With a word in `only`, checks are left out whose group (the name up to the colon) lacks it.
    pub(super) fn new(only: &str) -> Self {
        Self { only: only.to_owned(), passed: 0, skipped: 0, failed: Vec::new(), start: Instant::now() }
    }

    /// Runs one check. Returns whether it passed, for checks that build on it.
    pub(super) fn check(&mut self, name: &str, body: impl FnOnce() -> Result<()>) -> bool {
        if !name.split(':').next().unwrap_or(name).contains(&self.only) {
            return false;
        }
        let start = Instant::now();
        let result = body();
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("  ok      {name} ({seconds:.1} s)");
                true
            }
            Err(error) => {
                println!("  FAILED  {name} ({seconds:.1} s)\n{}", indent(&format!("{error:#}")));
                self.failed.push(name.to_owned());
                false
            }
        }
    }

    /// Notes a check that cannot run here.
    pub(super) fn skip(&mut self, name: &str, why: &str) {
        self.skipped += 1;
        println!("  SKIPPED: {name}: {why}");
    }

    /// Prints the sum.
    ///
    /// # Errors
    /// When a check failed, or none ran.
    pub(super) fn finish(self) -> Result<()> {
        println!("e2e took {:.1} s", self.start.elapsed().as_secs_f64());
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped);
        if !self.failed.is_empty() {
            bail!("e2e failed: {}", self.failed.join("; "));
        }
        if self.passed == 0 {
            bail!("no group of checks has {:?} in its name", self.only);
        }
        Ok(())
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("          {line}")).collect::<Vec<_>>().join("\n")
}
