//! Stands in for `encoders` in a build without them: none can be loaded, and the message says which build can.

use crate::error::{ModelError, Result};
use crate::files::ModelFiles;

/// A sequence classifier: there is none in this build.
#[derive(Debug)]
pub enum Encoder {}

impl Encoder {
    /// Refuses the directory.
    ///
    /// # Errors
    /// Always.
    pub fn load(files: &ModelFiles) -> Result<Self> {
        let problem = "this build has no encoders; build with the feature `encoders` (cargo build --release --features \
                       encoders)";
        Err(ModelError::NoEncoders { path: files.root(), problem })
    }

    /// Names of the labels, in the order of the logits.
    pub fn labels(&self) -> &[String] {
        match *self {}
    }

    /// Whether labels do not exclude each other.
    pub fn multi_label(&self) -> bool {
        match *self {}
    }

    /// Longest sequence, tokens.
    pub fn max_tokens(&self) -> usize {
        match *self {}
    }

    /// Token ids of a text, or of two as a pair.
    ///
    /// # Errors
    /// None.
    pub fn ids(&self, _text: &str, _second: Option<&str>) -> Result<Vec<u32>> {
        match *self {}
    }

    /// Logits of texts, or of pairs of texts.
    ///
    /// # Errors
    /// None.
    pub fn logits(&self, _texts: &[(&str, Option<&str>)]) -> Result<Vec<Vec<f32>>> {
        match *self {}
    }
}
