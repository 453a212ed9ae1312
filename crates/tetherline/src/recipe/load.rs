//! From a TOML text and `--set` values to a checked [`Recipe`].

use super::locate::{Place, key_span};
use super::{Recipe, RecipeError, embedded, paths, set};
use std::path::Path;
use tetherline_core::FieldError;
use toml::Table;

/// The laws of `[kl]`: one moves the coefficient.
pub(super) const LAWS: &[&str] =
    &["fixed", "schedule", "ziegler", "adaptive", "ppo_adaptive", "pid", "pid_lagrangian", "dual", "auto_pi"];

/// What gives a response's score: one in each `[[reward.rule]]` and `[[cost.rule]]`.
pub(super) const RULES: &[&str] =
    &["keyword", "regex", "length", "command", "http", "exact", "program", "encoder"];

/// Tables with one entry out of several.
pub(super) const ONE_OF: [set::Exclusive; 8] = [
    ("kl", LAWS),
    ("kl.reference", &["sync", "ema", "reset"]),
    ("ppo.missing_eos_penalty", &["subtract", "replace"]),
    ("ppo.aggregation", &["seq_mean_constant", "sum_constant"]),
    ("ppo.rollout_correction", &["token", "sequence"]),
    ("reward.rule", RULES),
    ("cost.rule", RULES),
    ("fault.what", &["lr", "hostile_reward", "lost_domain"]),
];

impl Recipe {
    /// Loads a recipe from a file, or one of the embedded recipes by name, and applies `sets`
    /// (`key`, `value`) in order. Everything that can be checked without opening a file is checked.
    ///
    /// Paths in the file are relative to it, paths in `sets` to the current directory; both become
    /// absolute.
    ///
    /// # Errors
    /// [`RecipeError`], with the line or the `--set` to look at.
    pub fn load(source: &str, sets: &[(String, String)]) -> Result<Self, RecipeError> {
        let path = Path::new(source);
        if !path.is_file() {
            if let Some(found) = embedded(source) {
                return Self::from_text(found.text, source, Path::new(""), sets);
            }
            if !path.exists() {
                return Err(RecipeError::NotFound { name: source.to_owned(), known: embedded::names() });
            }
        }
        let text = std::fs::read_to_string(path)
            .map_err(|source| RecipeError::Read { path: path.to_owned(), source })?;
        Self::from_text(&text, source, path.parent().unwrap_or(Path::new("")), sets)
    }

    /// Loads a recipe from its text. `file` is its name in messages, `base` where its paths start.
    ///
    /// # Errors
    /// [`RecipeError`], with the line or the `--set` to look at.
    pub fn from_text(
        text: &str,
        file: &str,
        base: &Path,
        sets: &[(String, String)],
    ) -> Result<Self, RecipeError> {
        let in_file = |e: toml::de::Error| RecipeError::InFile {
            file: file.to_owned(),
            place: Place::of(text, e.span().unwrap_or(0..0)),
            message: e.message().to_owned(),
        };
        // Once from the text, for errors that know their line; then as a table that sets can change.
        toml::from_str::<Recipe>(text).map_err(in_file)?;
        let mut table: Table = toml::from_str(text).map_err(in_file)?;
        paths::resolve(&mut table, base);
        let recipe = apply(&table, file, sets)?;
        recipe.validate().map_err(|e| place(&e, text, file, sets))?;
        Ok(recipe)
    }

    /// Reads the resolved recipe of a run directory, without asking whether what it names still exists.
    ///
    /// # Errors
    /// [`RecipeError`].
    pub fn read_resolved(path: &Path) -> Result<Self, RecipeError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| RecipeError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|e| RecipeError::InFile {
            file: path.display().to_string(),
            place: Place::of(&text, e.span().unwrap_or(0..0)),
            message: e.message().to_owned(),
        })
    }

    fn deserialize_table(table: &Table) -> Result<Self, toml::de::Error> {
        table.clone().try_into()
    }
}

/// Changes `table` as `sets` say and reads it as a recipe.
///
/// Only the result has to be a recipe: changing a law takes several sets. Where it is none, the error is
/// laid at the door of the first set that brought it in.
fn apply(table: &Table, file: &str, sets: &[(String, String)]) -> Result<Recipe, RecipeError> {
    let mut table = table.clone();
    let mut suspects = Vec::new();
    for (key, value) in sets {
        let in_set = |message| RecipeError::InSet { set: format!("{key}={value}"), message };
        let mut change = set::nested(key, value).map_err(in_set)?;
        paths::resolve(&mut change, Path::new(""));
        set::merge(&mut table, change, &ONE_OF).map_err(in_set)?;
        if let Err(e) = Recipe::deserialize_table(&table) {
            suspects.push(in_set(e.message().to_owned()));
        }
    }
    Recipe::deserialize_table(&table).map_err(|last| {
        let same =
            |e: &RecipeError| matches!(e, RecipeError::InSet { message, .. } if message == last.message());
        match suspects.iter().position(same) {
            Some(i) => suspects.swap_remove(i),
            None => RecipeError::Whole { file: file.to_owned(), message: last.message().to_owned() },
        }
    })
}

/// Finds out where the value that `e` complains about came from: a `--set`, a line, or neither.
fn place(e: &FieldError, text: &str, file: &str, sets: &[(String, String)]) -> RecipeError {
    let within = |outer: &str, inner: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    // `rule[0].weight` and `rule.0.weight` are the same place.
    let field = e.field.replace('[', ".").replace(']', "");
    if let Some((key, value)) = sets.iter().rev().find(|(key, _)| within(key, &field)) {
        let message = if *key == field { e.problem.clone() } else { e.to_string() };
        return RecipeError::InSet { set: format!("{key}={value}"), message };
    }
    match key_span(text, &field) {
        Some(span) => RecipeError::InFile {
            file: file.to_owned(),
            place: Place::of(text, span),
            message: e.to_string(),
        },
        None => RecipeError::Whole { file: file.to_owned(), message: e.to_string() },
    }
}
