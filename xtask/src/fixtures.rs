//! `cargo xtask fixtures`: writes what is in `fixtures/` anew.
//!
//! The text comes out byte for byte the same; weights come from the training run that the example
//! documents. `fixtures/models` is made by `fixtures/scripts/make_tiny_models.py`, which needs Python.

use crate::process;
use anyhow::{Result, bail};

/// An example that writes a part of `fixtures/`.
struct Generator {
    package: &'static str,
    example: &'static str,
    /// Whether it trains, so that it wants a release build and minutes.
    trains: bool,
}

const GENERATORS: &[Generator] = &[
    Generator { package: "tetherline-frontdesk", example: "write_fixtures", trains: false },
    // The base policy, pretrained by this project's own trainer.
    Generator { package: "tetherline-cli", example: "train_base_policy", trains: true },
];

pub(crate) fn run(args: &[String]) -> Result<()> {
    let text_only = match args {
        [] => false,
        [flag] if flag == "--text" => true,
        _ => bail!("usage: cargo xtask fixtures [--text]"),
    };
    for generator in GENERATORS {
        if text_only && generator.trains {
            continue;
        }
        let Generator { package, example, trains } = generator;
        let source =
            process::root().join("crates").join(package).join("examples").join(format!("{example}.rs"));
        if !source.is_file() {
            bail!("{package} has no example {example}: {} is missing", source.display());
        }
        println!("fixtures: {package} {example}");
        let mut command = process::cargo(&["run", "--quiet", "--package", package, "--example", example]);
        if *trains {
            command.arg("--release");
        }
        process::run(&mut command)?;
    }
    Ok(())
}
