//! `tether init`.

use crate::cli::InitArgs;
use crate::exit_codes::UsageError;
use crate::output;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use tetherline::recipe::{EMBEDDED, embedded};

pub(crate) fn run(args: &InitArgs) -> anyhow::Result<()> {
    let preset = embedded(&args.preset).ok_or_else(|| {
        let known: Vec<_> = EMBEDDED.iter().map(|e| e.name).collect();
        UsageError(format!("no preset {:?}; there are: {}", args.preset, known.join(", ")))
    })?;
    let path = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}.toml", preset.name)));
    let failed = |e: std::io::Error| match e.kind() {
        ErrorKind::AlreadyExists => anyhow::Error::from(UsageError(format!(
            "{} is there already; choose another name with --out",
            path.display()
        ))),
        _ => anyhow::anyhow!("cannot write {}: {e}", path.display()),
    };
    let mut file = File::create_new(&path).map_err(failed)?;
    file.write_all(preset.text.as_bytes()).map_err(failed)?;
    let shown = path.display();
    output::result(&format!("wrote {shown}\nnext: tether run {shown} --dry-run"));
    Ok(())
}
