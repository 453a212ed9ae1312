//! `cargo xtask tidy`: the layer table of ARCHITECTURE.md, and rules about files that no compiler checks.
//!
//! Every violation is reported as `file:line: what`, all of them in one run.

mod layers;
mod sources;

use crate::process;
use anyhow::{Result, bail};

/// One broken rule, at a place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    /// Path from the root, with `/`.
    file: String,
    /// 1-based.
    line: usize,
    /// What is wrong and what to do.
    message: String,
}

impl Violation {
    fn new(file: &str, line: usize, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, message: message.into() }
    }
}

pub(crate) fn run(args: &[String]) -> Result<()> {
    if !args.is_empty() {
        bail!("usage: cargo xtask tidy");
    }
    let root = process::root();
    let mut violations = layers::check(&root, &process::metadata(&[])?)?;
    let listed = process::output(
        std::process::Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&root),
    )?;
    let mut files = 0;
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        // A file may be removed in the working tree, or not be text.
        let Ok(text) = std::fs::read_to_string(root.join(name)) else { continue };
        files += 1;
        violations.extend(sources::check(name, &text));
    }
    violations.sort();
    for v in &violations {
        println!("{}:{}: {}", v.file, v.line, v.message);
    }
    if !violations.is_empty() {
        bail!("tidy found {} violations", violations.len());
    }
    println!("tidy: {files} files and the layer table are in order");
    Ok(())
}
