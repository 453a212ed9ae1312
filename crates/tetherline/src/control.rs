//! `tether kl control`: the KL controllers for trainers in other languages, one JSON observation a line in, one
//! JSON decision a line out.

use crate::Error;
use crate::checkpoint::save_file;
use crate::recipe::{Place, RecipeError, key_span};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tetherline_kl::{ControlDecision, ControllerState, KlConfig, KlController, KlObservation};

/// Reads the `[kl]` section of a TOML file: one of its own, or a recipe.
///
/// # Errors
/// [`RecipeError`] with the line.
pub fn load_config(path: &Path) -> Result<KlConfig, RecipeError> {
    #[derive(Deserialize)]
    struct File {
        kl: KlConfig,
    }
    let text = std::fs::read_to_string(path)
        .map_err(|source| RecipeError::Read { path: path.to_owned(), source })?;
    let file = path.display().to_string();
    let at =
        |span, message| RecipeError::InFile { file: file.clone(), place: Place::of(&text, span), message };
    let File { kl } =
        toml::from_str(&text).map_err(|e| at(e.span().unwrap_or(0..0), e.message().to_owned()))?;
    kl.validate()
        .map_err(|e| at(key_span(&text, &format!("kl.{}", e.field)).unwrap_or(0..0), format!("kl.{e}")))?;
    Ok(kl)
}

/// A controller behind a stream of JSON lines.
#[derive(Debug)]
pub struct Stream {
    controller: Box<dyn KlController + Send>,
    state: Option<PathBuf>,
    line: usize,
}

impl Stream {
    /// A controller of `config`. With `state`, it goes on from that file where it exists, and the file is
    /// replaced after every decision.
    ///
    /// # Errors
    /// [`Error::Input`] where the configuration or the state cannot be used.
    pub fn new(config: &KlConfig, state: Option<PathBuf>) -> Result<Self, Error> {
        let mut controller = config.build().map_err(|e| Error::input("the kl section", e))?;
        if let Some(path) = &state
            && let Some(saved) = crate::pipeline::read_json::<ControllerState>(path)?
        {
            controller.restore(&saved).map_err(|e| Error::input(path.display().to_string(), e))?;
        }
        Ok(Self { controller, state, line: 0 })
    }

    /// Answers one line: a decision, or for a line that is no observation `{"error": …}` with the field, and
    /// nothing changed. `None` for a blank line.
    ///
    /// # Errors
    /// If the state cannot be saved; the state in the file is then the one before.
    pub fn answer(&mut self, line: &str) -> Result<Option<Value>, Error> {
        self.line += 1;
        if line.trim().is_empty() {
            return Ok(None);
        }
        let observation: KlObservation = match serde_json::from_str(line) {
            Ok(observation) => observation,
            Err(e) => return Ok(Some(self.malformed(line, &e))),
        };
        let decision = self.controller.observe(&observation);
        if let Some(path) = &self.state {
            let text = serde_json::to_vec(&self.controller.state())
                .map_err(|e| Error::input(path.display().to_string(), e))?;
            save_file(path, &text)?;
        }
        Ok(Some(value(&decision)))
    }

    fn malformed(&self, line: &str, e: &serde_json::Error) -> Value {
        json!({"error": {"line": self.line, "field": field_of(line, e), "text": e.to_string()}})
    }
}

fn value(decision: &ControlDecision) -> Value {
    serde_json::to_value(decision).unwrap_or_else(|e| json!({"error": {"text": e.to_string()}}))
}

/// The field that a message is about: the one it names, else the last key before the column where reading
/// stopped; empty for a line that is no JSON object at all.
fn field_of(line: &str, e: &serde_json::Error) -> String {
    let message = e.to_string();
    if let Some(name) = message.split('`').nth(1).filter(|_| message.contains("field `")) {
        return name.to_owned();
    }
    let read = String::from_utf8_lossy(&line.as_bytes()[..e.column().min(line.len())]);
    let mut parts = read.rsplit("\":");
    // What stands before the last `":` ends with the key.
    parts.nth(1).and_then(|before| before.rsplit('"').next()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "[kl.adaptive]\ninit = 0.2\ntarget = 6.0\nhorizon = 10000\n";

    fn stream(state: Option<PathBuf>) -> Stream {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kl.toml");
        std::fs::write(&path, CONFIG).unwrap();
        Stream::new(&load_config(&path).unwrap(), state).unwrap()
    }

    fn observation(step: u64, kl: f64) -> String {
        format!(r#"{{"step":{step},"domains":[{{"id":"all","mean_kl":{kl},"var":11.0,"n":512}}]}}"#)
    }

    #[test]
    fn a_malformed_line_names_its_field_and_changes_nothing() {
        let mut s = stream(None);
        let before = s.controller.state();
        let error = |s: &mut Stream, line: &str| s.answer(line).unwrap().unwrap()["error"]["field"].clone();
        let cases = [
            (r#"{"step":1,"domains":[{"id":"all","var":1.0,"n":3}]}"#, "mean_kl"),
            (r#"{"step":1,"domains":[{"id":"all","mean_kl":1,"var":1.0,"n":"x"}]}"#, "n"),
            (r#"{"step":-1,"domains":[]}"#, "step"),
            (r#"{"step":1,"domains":[],"phse":"trial"}"#, "phse"),
            ("nonsense", ""),
        ];
        for (line, field) in cases {
            assert_eq!(error(&mut s, line), field, "{line}");
        }
        assert_eq!(s.controller.state(), before);
        assert_eq!(s.answer("  ").unwrap(), None);
        assert_eq!(s.answer(&observation(1, 9.0)).unwrap().unwrap()["verdict"], "accept");
    }

    #[test]
    fn a_saved_state_goes_on_as_if_never_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let lines: Vec<String> = (0..20).map(|t| observation(t, 4.0 + (t % 7) as f64)).collect();
        let mut whole = stream(None);
        for line in &lines {
            let mut part = stream(Some(path.clone()));
            assert_eq!(part.answer(line).unwrap(), whole.answer(line).unwrap());
        }
    }

    #[test]
    fn a_wrong_configuration_names_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kl.toml");
        std::fs::write(&path, CONFIG.replace("6.0", "-6.0")).unwrap();
        let error = load_config(&path).unwrap_err().to_string();
        assert!(error.contains("kl.toml:3") && error.contains("kl.adaptive.target"), "{error}");
    }
}
