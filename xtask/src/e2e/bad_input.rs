//! What a user can get wrong in a command or a data file. Each must end in an error that names the thing,
//! with an exit code that is not 0 and without a panic. Models and recipes have files of their own.

use super::Model;
use super::checks::Checks;
use super::compare::read_rows;
use super::tether::{Tether, args};
use super::world::World;
use super::{bad_models, bad_recipes};
use anyhow::{Result, bail};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// A model, data and a recipe that are all good: each case breaks one thing.
pub(super) struct Setup<'a> {
    pub(super) tether: &'a Tether,
    pub(super) model: &'a Model,
    pub(super) world: World,
    pub(super) recipe: PathBuf,
}

impl Setup<'_> {
    /// Runs a command that must fail with a message that holds every one of `words`.
    pub(super) fn expect_error(&self, args: &[OsString], words: &[&str]) -> Result<()> {
        self.tether.run(args)?.expect_error(words)
    }

    /// `tether generate` with a model, on the world's prompts.
    pub(super) fn generate(&self, model: &Path) -> Vec<OsString> {
        let out = self.tether.path("never.jsonl");
        args!["generate", "--model", model, "--prompts", self.world.file("prompts.jsonl"), "--out", out]
    }

    /// Writes a file into the world.
    pub(super) fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.world.file(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

pub(super) fn check(checks: &mut Checks, tether: &Tether, model: &Model) -> Result<()> {
    let world = World::write(&tether.path("world"))?;
    let recipe = world.recipe("good", model, 2)?;
    let setup = Setup { tether, model, world, recipe };
    check_commands(checks, &setup);
    check_data(checks, &setup);
    bad_models::check(checks, &setup);
    bad_recipes::check(checks, &setup);
    Ok(())
}

fn check_commands(checks: &mut Checks, s: &Setup<'_>) {
    checks.check("bad input: no such model directory", || {
        s.expect_error(&s.generate(Path::new("./nowhere")), &["nowhere"])
    });
    checks.check("bad input: no such recipe, and the embedded ones are listed", || {
        s.expect_error(&args!["run", "./nowhere.toml"], &["nowhere.toml", "quickstart"])
    });
    for (flag, value) in [("--temperature", "-1"), ("--top-p", "1.5"), ("--max-new-tokens", "0")] {
        checks.check(&format!("bad input: generate {flag} {value}"), || {
            let mut args = s.generate(&s.model.dir);
            args.push(format!("{flag}={value}").into());
            s.expect_error(&args, &[flag])
        });
    }
    checks.check("bad input: a report of something that is no run", || {
        s.expect_error(&args!["report", s.tether.path("world")], &["not a run directory"])
    });
}

fn check_data(checks: &mut Checks, s: &Setup<'_>) {
    let sft_with = |file: &Path| {
        let set = format!("data.sft={}", file.display());
        args!["sft", s.recipe, "--set", set, "--out", s.tether.path("never")]
    };
    checks.check("bad input: an empty data set", || {
        let file = s.file("empty.jsonl", "")?;
        s.expect_error(&sft_with(&file), &["empty.jsonl"])
    });
    checks.check("bad input: a malformed line is named, and can be skipped", || {
        let good = r#"{"prompt": "where is the boat", "response": " at the pier"}"#;
        let file = s.file("malformed.jsonl", &format!("{good}\n{good}\n{{\"prompt\": \n{good}\n"))?;
        s.expect_error(&sft_with(&file), &["malformed.jsonl:3"])?;
        s.expect_error(&args!["data", "check", file], &["malformed.jsonl", "line 3", "1 bad", "3 good"])?;
        let out = s.tether.path("skipped.jsonl");
        let generate = args!["generate", "--model", s.model.dir, "--prompts", file, "--out", out];
        s.expect_error(&generate, &["malformed.jsonl:3"])?;
        s.tether.ok(&[generate, args!["--skip-bad-lines"]].concat())?;
        match read_rows(&out)?.len() {
            3 => Ok(()),
            n => bail!("{n} responses to 3 good lines and a bad one"),
        }
    });
    checks.check("bad input: a field of the wrong type", || {
        let file = s.file("mistyped.jsonl", "{\"prompt\": 7, \"response\": \"x\"}\n")?;
        s.expect_error(&sft_with(&file), &["mistyped.jsonl:1", "prompt", "string"])
    });
    checks.check("bad input: a missing field", || {
        let file = s.file("incomplete.jsonl", "{\"prompt\": \"where is the boat\"}\n")?;
        s.expect_error(&sft_with(&file), &["incomplete.jsonl:1", "response"])
    });
    checks.check("bad input: a prompt longer than the context", || {
        let words = "the boat ".repeat(200);
        let file = s.file("long.jsonl", &format!("{{\"prompt\": \"{words}\"}}\n"))?;
        let out = s.tether.path("never.jsonl");
        s.expect_error(
            &args!["generate", "--model", s.model.dir, "--prompts", file, "--out", out],
            &["long.jsonl line 1", "context 128"],
        )
    });
    checks.check("bad input: the output would replace the input", || {
        let file = s.file("both.jsonl", "{\"prompt\": \"where is the boat\"}\n")?;
        s.expect_error(
            &args!["generate", "--model", s.model.dir, "--prompts", file, "--out", file],
            &["both.jsonl", "--out"],
        )
    });
    checks.check("bad input: token ids out of range", || {
        let file = s.file("ids.jsonl", "{\"input_ids\": [1, 5, 99999], \"prompt_len\": 1}\n")?;
        let out = s.tether.path("never.jsonl");
        s.expect_error(
            &args!["score", "--model", s.model.dir, "--data", file, "--out", out],
            &["99999", "320"],
        )
    });
}
