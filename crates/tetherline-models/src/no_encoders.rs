//! Stands in for `encoders` in a build without them: none can be loaded, and the message says which build can.

use crate::error::{ModelError, Result};
use crate::files::ModelFiles;

fn refused(files: &ModelFiles) -> ModelError {
    let problem = "this build has no encoders; build with the feature `encoders` (cargo build --release --features encoders)";
    ModelError::NoEncoders { path: files.root(), problem }
}

/// A sequence classifier: there is none in this build.
#[derive(Debug)]
pub enum Encoder {}

impl Encoder {
    /// Refuses the directory.
    ///
    /// # Errors
    /// Always.
    pub fn load(files: &ModelFiles) -> Result<Self> {
        Err(refused(files))
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

/// A classifier without its weights: there is none in this build.
#[derive(Clone, Debug)]
pub enum EncoderShape {}

impl EncoderShape {
    /// Refuses the directory.
    ///
    /// # Errors
    /// Always.
    pub fn load(files: &ModelFiles) -> Result<Self> {
        Err(refused(files))
    }

    /// Names of the labels, in the order of the logits.
    pub fn labels(&self) -> &[String] {
        match *self {}
    }

    /// Bytes of the weights in memory.
    pub fn weight_bytes(&self) -> usize {
        match *self {}
    }

    /// Longest sequence, tokens.
    pub fn max_tokens(&self) -> usize {
        match *self {}
    }

    /// Tokens of a text, or of two as a pair.
    ///
    /// # Errors
    /// None.
    pub fn tokens(&self, _text: &str, _second: Option<&str>) -> Result<usize> {
        match *self {}
    }

    /// Bytes of what a pass holds at its peak.
    pub fn forward_bytes(&self, _lengths: &[usize]) -> usize {
        match *self {}
    }

    /// Operations of a pass.
    pub fn work(&self, _lengths: &[usize]) -> f64 {
        match *self {}
    }

    /// Something to measure speed on.
    ///
    /// # Errors
    /// None.
    pub fn probe(&self, _length: usize) -> Result<EncoderProbe> {
        match *self {}
    }
}

/// A small encoder: there is none in this build.
#[derive(Debug)]
pub enum EncoderProbe {}

impl EncoderProbe {
    /// One pass.
    ///
    /// # Errors
    /// None.
    pub fn run(&self) -> Result<()> {
        match *self {}
    }

    /// Its operations.
    pub fn work(&self) -> f64 {
        match *self {}
    }
}
