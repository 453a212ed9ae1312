//! `tether kl control`: the KL controllers for trainers in other languages, one JSON observation a line in, one
//! JSON decision a line out.
//!
//! Three more lines follow the trainer: `{"checkpoint": STEP}` keeps the controller's state under that step,
//! `{"rollback": STEP}` returns to it, `{"release": STEP}` starts the guard anew after a halt.

pub(crate) mod kept;

use crate::Error;
use crate::checkpoint::save_file;
use crate::pipeline::read_json;
use crate::python_json;
use crate::recipe::{Place, RecipeError, key_span};
use kept::Kept;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use tetherline_kl::{ControlDecision, ControllerState, KlConfig, KlController, KlObservation, KlPolicy};

/// Reads the `[kl]` section of a TOML file: one of its own, or a recipe.
///
/// # Errors
/// [`RecipeError`] with the line.
pub fn load_config(path: &Path) -> Result<KlConfig, RecipeError> {
    #[derive(Deserialize)]
    struct File {
        kl: Option<KlConfig>,
    }
    let text = std::fs::read_to_string(path)
        .map_err(|source| RecipeError::Read { path: path.to_owned(), source })?;
    let file = path.display().to_string();
    let at =
        |span, message| RecipeError::InFile { file: file.clone(), place: Place::of(&text, span), message };
    let read: File =
        toml::from_str(&text).map_err(|e| at(e.span().unwrap_or(0..0), e.message().to_owned()))?;
    let Some(kl) = read.kl else { return Err(at(0..0, "there is no [kl] section".to_owned())) };
    kl.validate()
        .map_err(|e| at(key_span(&text, &format!("kl.{}", e.field)).unwrap_or(0..0), format!("kl.{e}")))?;
    Ok(kl)
}

/// A controller behind a stream of JSON lines.
#[derive(Debug)]
pub struct Stream {
    config: KlConfig,
    controller: KlPolicy,
    state: Option<PathBuf>,
    kept: Kept,
    line: usize,
}

/// The trainer has saved a checkpoint of its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointLine {
    checkpoint: u64,
}

/// The trainer has gone back to a checkpoint of its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RollbackLine {
    rollback: u64,
}

/// A person has looked at a halted trainer and lets it go on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseLine {
    release: u64,
}

impl Stream {
    /// A controller of `config`. With `state`, it goes on from that file where it exists, and the file is
    /// replaced after every line that changes the controller; the states under the trainer's checkpoints are
    /// in a second file beside it, `FILE.checkpoints`. Without the first, the second is one of another run and
    /// is not read.
    ///
    /// # Errors
    /// [`Error::Input`] where the configuration or one of the files cannot be used.
    pub fn new(config: &KlConfig, state: Option<PathBuf>) -> Result<Self, Error> {
        let mut controller = build(config)?;
        let mut kept = Kept::start(state.as_deref());
        if let Some(path) = &state {
            let name = path.display().to_string();
            let directory = path.parent().filter(|p| !p.as_os_str().is_empty());
            if let Some(missing) = directory.filter(|p| !p.is_dir()) {
                return Err(Error::input(name, format!("there is no directory {}", missing.display())));
            }
            if let Some(saved) = read_json::<ControllerState>(path)? {
                controller.restore(&saved).map_err(|e| Error::input(name, e))?;
                kept = kept.read(config)?;
            }
        }
        Ok(Self { config: config.clone(), controller, state, kept, line: 0 })
    }

    /// Answers one line: an observation by a decision, a checkpoint, rollback or release by what is kept or in force,
    /// anything else by `{"error": …}` with the field, and nothing changed. `None` for a blank line.
    ///
    /// # Errors
    /// If a file cannot be saved; what is in it is then what was before.
    pub fn answer(&mut self, line: &str) -> Result<Option<Value>, Error> {
        self.line += 1;
        if line.trim().is_empty() {
            return Ok(None);
        }
        let line = &*python_json::finite(line);
        let answer = match serde_json::from_str::<Map<String, Value>>(line) {
            Err(e) => Err(e),
            Ok(object) if object.contains_key("checkpoint") => {
                serde_json::from_str(line).map(|CheckpointLine { checkpoint }| self.checkpoint(checkpoint))
            }
            Ok(object) if object.contains_key("rollback") => {
                serde_json::from_str(line).map(|RollbackLine { rollback }| self.roll_back(rollback))
            }
            Ok(object) if object.contains_key("release") => {
                serde_json::from_str(line).map(|ReleaseLine { release }| self.release(release))
            }
            Ok(_) => serde_json::from_str(line).map(|observation| self.observe(&observation)),
        };
        answer.unwrap_or_else(|e| Ok(self.error(&field_of(line, &e), &e.to_string()))).map(Some)
    }

    fn observe(&mut self, observation: &KlObservation) -> Result<Value, Error> {
        let decision = self.controller.observe(observation);
        self.save()?;
        Ok(value(&decision))
    }

    fn checkpoint(&mut self, step: u64) -> Result<Value, Error> {
        // The state first: without it a restart would not read what is kept.
        self.save()?;
        self.kept.keep(step, self.controller.state())?;
        Ok(json!({"checkpoint": step, "kept": self.kept.steps()}))
    }

    fn roll_back(&mut self, step: u64) -> Result<Value, Error> {
        let Some(state) = self.kept.of(step) else {
            let steps: Vec<_> = self.kept.steps().iter().map(u64::to_string).collect();
            let kept = if steps.is_empty() { "none".to_owned() } else { steps.join(", ") };
            let text = format!("no checkpoint of step {step} is kept (kept: {kept})");
            return Ok(self.error("rollback", &text));
        };
        if let Err(e) = self.controller.roll_back(state) {
            return Ok(self.error("rollback", &e.to_string()));
        }
        self.save()?;
        self.answer_in_force("rollback", step)
    }

    fn release(&mut self, step: u64) -> Result<Value, Error> {
        self.controller.release_halt();
        self.save()?;
        self.answer_in_force("release", step)
    }

    /// The line's own key and step, and the β in force.
    fn answer_in_force(&self, key: &str, step: u64) -> Result<Value, Error> {
        let mut in_force = self.in_force()?;
        let mut answer = json!({key: step, "beta": in_force["beta"].take()});
        // As in a decision: there where a row adds up several entries.
        if let Some(combine) = in_force.get_mut("combine") {
            answer["combine"] = combine.take();
        }
        Ok(answer)
    }

    /// A decision that holds the β in force. An observation without domains moves nothing, and a copy takes it.
    fn in_force(&self) -> Result<Value, Error> {
        let mut copy = build(&self.config)?;
        copy.restore(&self.controller.state()).map_err(|e| Error::input("the controller's own state", e))?;
        Ok(value(&copy.observe(&KlObservation::rollout(0, Vec::new()))))
    }

    fn save(&self) -> Result<(), Error> {
        let Some(path) = &self.state else { return Ok(()) };
        let text = serde_json::to_vec(&self.controller.state())
            .map_err(|e| Error::input(path.display().to_string(), e))?;
        Ok(save_file(path, &text)?)
    }

    fn error(&self, field: &str, text: &str) -> Value {
        json!({"error": {"line": self.line, "field": field, "text": text}})
    }
}

fn build(config: &KlConfig) -> Result<KlPolicy, Error> {
    KlPolicy::new(config.clone()).map_err(|e| Error::input("the kl section", e))
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
            (r#"{"step":NaN,"domains":[]}"#, "step"),
            (r#"{"checkpoint":-1}"#, "checkpoint"),
            (r#"{"checkpoint":null}"#, "checkpoint"),
            (r#"{"checkpoint":1,"step":1}"#, "step"),
            (r#"{"rollback":1,"checkpoint":1}"#, "rollback"),
            (r#"{"rollback":"1"}"#, "rollback"),
            (r#"{"rollback":1,"phase":"trial"}"#, "phase"),
            (r#"{"rollback":1}"#, "rollback"),
            (r#"{"release":"1"}"#, "release"),
            (r#"{"checkpoint":1"#, "checkpoint"),
            (r#"{"step":2,"domains":[],"#, "domains"),
            (r#"[2,"rollout",[],[],null]"#, ""),
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
    fn what_python_writes_for_nan_is_a_broken_observation() {
        let mut s = stream(None);
        for (step, kl) in [(1, "NaN"), (2, "Infinity"), (3, "-Infinity"), (4, "null")] {
            let line =
                format!(r#"{{"step":{step},"domains":[{{"id":"all","mean_kl":{kl},"var":NaN,"n":9}}]}}"#);
            let answer = s.answer(&line).unwrap().unwrap();
            assert_eq!(
                (&answer["verdict"], &answer["reason"]["code"]),
                (&"reject".into(), &"not_finite".into())
            );
        }
        let named = r#"{"step":5,"domains":[{"id":"NaN","mean_kl":5.0,"var":NaN,"n":9}]}"#;
        assert!(s.answer(named).unwrap().unwrap()["beta"]["NaN"].is_number());
    }

    /// A guard that asks for a rollback after two broken observations in a row.
    const GUARDED: &str = "[kl.auto_pi]\ninit = 0.2\ntarget = 6.0\n[kl.guard]\n";

    fn guarded(state: Option<PathBuf>) -> Stream {
        Stream::new(
            &toml::from_str::<std::collections::BTreeMap<String, KlConfig>>(GUARDED).unwrap()["kl"],
            state,
        )
        .unwrap()
    }

    fn ask(s: &mut Stream, line: &str) -> Value {
        s.answer(line).unwrap().unwrap()
    }

    #[test]
    fn a_rollback_returns_the_law_and_keeps_the_counters() {
        let mut s = guarded(None);
        (1..=20).for_each(|t| drop(ask(&mut s, &observation(t, 3.0))));
        let before = s.controller.state();
        assert_eq!(ask(&mut s, r#"{"checkpoint": 20}"#), json!({"checkpoint": 20, "kept": [20]}));
        let moved = ask(&mut s, &observation(21, 9.0))["beta"].clone();
        let mut t = 22;
        while ask(&mut s, &observation(t, f64::NAN))["verdict"] != "rollback" {
            t += 1;
            assert!(t < 40, "the guard asks for a rollback");
        }
        let failed = s.controller.state();
        let answer = ask(&mut s, r#"{"rollback": 20}"#);
        let after = s.controller.state();
        assert_eq!(after.domains["all"].law, before.domains["all"].law);
        assert_ne!(before.domains["all"].law, failed.domains["all"].law);
        assert_eq!((after.last_step, after.rollouts, after.guard), (Some(t), failed.rollouts, failed.guard));
        // The answer has the β that the next decision starts from: the guard's boost is on it.
        assert_eq!(answer["beta"]["all"], s.controller.beta("all"));
        assert!(answer["beta"]["all"] != moved["all"] && answer.get("combine").is_none());
        assert_eq!(ask(&mut s, &observation(t + 1, 5.0))["verdict"], "accept");
    }

    #[test]
    fn a_release_starts_the_guard_anew() {
        let mut s = guarded(None);
        assert_eq!(ask(&mut s, &observation(1, 3.0))["verdict"], "accept");
        let broken: Vec<_> =
            (2..=6).map(|t| ask(&mut s, &observation(t, f64::NAN))["verdict"].clone()).collect();
        assert_eq!(broken, ["reject", "reject", "rollback", "reject", "halt"]);
        assert_eq!(ask(&mut s, &observation(7, 3.0))["verdict"], "halt");
        let answer = ask(&mut s, r#"{"release": 7}"#);
        assert_eq!((&answer["release"], answer["beta"]["all"].is_number()), (&7.into(), true));
        assert_eq!(ask(&mut s, &observation(8, 3.0))["verdict"], "accept");
    }

    #[test]
    fn under_budgets_the_answer_says_that_betas_add_up() {
        let text = format!(
            "{CONFIG}[[kl.budget]]\nid = \"all\"\ntarget = 6.0\n[[kl.budget]]\nid = \"code\"\ntarget = 2.0\n"
        );
        let config = toml::from_str::<std::collections::BTreeMap<String, KlConfig>>(&text).unwrap();
        let mut s = Stream::new(&config["kl"], None).unwrap();
        let line = observation(1, 9.0);
        let decision = ask(&mut s, &line);
        ask(&mut s, &line.replace("all", "code").replace("\"step\":1", "\"step\":2"));
        ask(&mut s, r#"{"checkpoint": 2}"#);
        let answer = ask(&mut s, r#"{"rollback": 2}"#);
        assert_eq!((&answer["combine"], &answer["beta"]["all"]), (&"sum".into(), &decision["beta"]["all"]));
        assert!(answer["beta"]["code"].is_number());
    }

    #[test]
    fn the_first_checkpoint_and_the_newest_eight_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let mut s = guarded(Some(path.clone()));
        ask(&mut s, r#"{"checkpoint": 0}"#);
        assert_eq!(ask(&mut guarded(Some(path.clone())), r#"{"rollback": 0}"#)["beta"]["all"], 0.2);
        for t in 1..=9 {
            ask(&mut s, &observation(t, 3.0));
            ask(&mut s, &format!(r#"{{"checkpoint": {t}}}"#));
        }
        // The same step again takes the place of the older one and is the newest.
        let kept = json!([0, 3, 4, 5, 6, 7, 8, 9, 2]);
        assert_eq!(ask(&mut s, r#"{"checkpoint": 2}"#)["kept"], kept);
        let mut again = guarded(Some(path.clone()));
        assert_eq!(again.kept.steps(), [0, 3, 4, 5, 6, 7, 8, 9, 2]);
        let text = ask(&mut again, r#"{"rollback": 1}"#)["error"]["text"].to_string();
        assert!(text.contains("step 1 ") && text.contains("3, 4, 5, 6, 7, 8, 9, 2"), "{text}");
        assert_eq!(ask(&mut again, r#"{"rollback": 3}"#), ask(&mut s, r#"{"rollback": 3}"#));
        assert_eq!(again.controller.state(), s.controller.state());
        // The rollback itself is saved too.
        assert_eq!(guarded(Some(path.clone())).controller.state(), s.controller.state());
        // Another run with the same name of the file begins without checkpoints.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(guarded(Some(path)).kept.steps(), [0; 0]);
    }

    #[test]
    fn damaged_checkpoints_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let file = dir.path().join("state.json.checkpoints");
        let mut s = guarded(Some(path.clone()));
        ask(&mut s, &observation(1, 3.0));
        ask(&mut s, r#"{"checkpoint": 1}"#);
        let good = std::fs::read_to_string(&file).unwrap();
        let config = s.config.clone();
        for (bad, words) in [
            (good[..good.len() / 2].to_owned(), "EOF"),
            (good.replace("\"law\":\"auto_pi\"", "\"law\":\"pid\""), "step 1 in"),
            (good.replace("\"version\":", "\"version\":9"), "version"),
            (good.replace("\"step\":1", "\"stp\":1"), "stp"),
        ] {
            std::fs::write(&file, bad).unwrap();
            let error = Stream::new(&config, Some(path.clone())).unwrap_err().to_string();
            assert!(error.contains("state.json.checkpoints") && error.contains(words), "{error}");
        }
        let error = Stream::new(&config, Some(dir.path().join("no/state.json"))).unwrap_err().to_string();
        assert!(error.contains("no directory"), "{error}");
    }

    #[test]
    fn a_wrong_configuration_names_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kl.toml");
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            load_config(&path).unwrap_err().to_string().replace(&dir.path().display().to_string(), "")
        };
        let budgets =
            "[[kl.budget]]\nid = \"all\"\ntarget = 4.0\n\n[[kl.budget]]\nid = \"code\"\ntarget = 2.0\n";
        let metric = "metrics = [{ id = \"unsafe\", warn = 0.01, limit = 0.01 }]\n";
        let cases = [
            (CONFIG.replace("6.0", "-6.0"), "3:1: kl.adaptive.target"),
            (format!("{CONFIG}{budgets}").replace("2.0", "0.0"), "11:1: kl.budget[1].target"),
            (format!("{CONFIG}{budgets}{metric}"), "12:42: kl.budget[1].metrics[0].limit"),
            (format!("{CONFIG}{budgets}").replace("\"code\"", "\"all\""), "10:1: kl.budget[1].id"),
            (format!("{CONFIG}shrink = -1\n"), "5:1: unknown field `shrink`"),
            (format!("[kl]\nshrink = -1\n{CONFIG}"), "2:1: kl.shrink"),
            (format!("# none\n{}", budgets.replace("code", "all")), "2:3: kl: needs one law"),
            ("# none\n\n[kl]\n".to_owned(), "3:1: kl: needs one law"),
            (format!("{CONFIG}\n[kl.fixed]\ninit = 1.0\n"), "1:2: kl: has 2 laws"),
            (format!("{CONFIG}[kl.target_schedule]\nfrom = 0\nsteps = 3\n"), "6:1: kl.target_schedule.from"),
            (
                "[kl.fixed]\ninit = 0.1\n[kl.target_schedule]\nfrom = 0.5\nsteps = 3\n".to_owned(),
                "3:5: kl.target_schedule",
            ),
            (format!("{CONFIG}[kl.adaptve]\n"), "5:5: unknown field `adaptve`"),
            ("seed = 1\n".to_owned(), "1:1: there is no [kl] section"),
            ("[kl\n".to_owned(), "1:4: "),
        ];
        let mut wrong = Vec::new();
        for (text, start) in &cases {
            let error = refused(text);
            if !error.starts_with(&format!("/kl.toml:{start}")) {
                wrong.push(format!("{start}\n{error}\n"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let missing = load_config(&dir.path().join("no.toml")).unwrap_err().to_string();
        assert!(missing.contains("no.toml"), "{missing}");
    }
}
