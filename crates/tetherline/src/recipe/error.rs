//! What can be wrong with a recipe.

use super::locate::Place;
use std::path::PathBuf;

/// A recipe that cannot be used, with the place to look at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// Neither a file nor an embedded recipe.
    #[error("no recipe file {name}, and no embedded recipe of that name (there are: {known})")]
    NotFound {
        /// What was asked for.
        name: String,
        /// Names of the embedded recipes.
        known: String,
    },
    /// The file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in the file is wrong: syntax, an unknown key, a type, a value out of range.
    #[error("{file}:{line}:{column}: {message}\n{excerpt}", line = place.line, column = place.column, excerpt = place.excerpt())]
    InFile {
        /// The file, or the name of the embedded recipe.
        file: String,
        /// Where in it.
        place: Place,
        /// What is wrong and what would be right.
        message: String,
    },
    /// A value given with `--set` is wrong.
    #[error("--set {set}: {message}")]
    InSet {
        /// `key=value` as given.
        set: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// A value that the file does not contain is wrong or missing.
    #[error("{file}: {message}")]
    Whole {
        /// The file, or the name of the embedded recipe.
        file: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// Something that a stage needs is not given.
    #[error("{0}")]
    Missing(tetherline_core::FieldError),
}
