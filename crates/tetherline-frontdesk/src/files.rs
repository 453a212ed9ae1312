//! The shipped files, embedded in the binary, and how they are written again.

use crate::FrontdeskError;
use crate::record::{from_jsonl, to_jsonl};
use crate::world::World;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use std::io::{Read, Write};
use std::path::Path;

/// A shipped file: name and bytes (gzip where the name ends in `.gz`).
pub const FILES: [(&str, &[u8]); 6] = [
    ("prompts.train.jsonl", include_bytes!("../../../fixtures/frontdesk/prompts.train.jsonl")),
    ("prompts.validation.jsonl", include_bytes!("../../../fixtures/frontdesk/prompts.validation.jsonl")),
    ("prompts.heldout.jsonl", include_bytes!("../../../fixtures/frontdesk/prompts.heldout.jsonl")),
    ("demonstrations.jsonl.gz", include_bytes!("../../../fixtures/frontdesk/demonstrations.jsonl.gz")),
    ("pairs.train.jsonl.gz", include_bytes!("../../../fixtures/frontdesk/pairs.train.jsonl.gz")),
    ("pairs.validation.jsonl", include_bytes!("../../../fixtures/frontdesk/pairs.validation.jsonl")),
];

/// The base policy as the files of a Hugging Face directory, made by the documented training run.
pub const BASE_POLICY: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../../../fixtures/frontdesk/base/config.json")),
    ("generation_config.json", include_bytes!("../../../fixtures/frontdesk/base/generation_config.json")),
    ("model.safetensors", include_bytes!("../../../fixtures/frontdesk/base/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../fixtures/frontdesk/base/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../fixtures/frontdesk/base/tokenizer_config.json")),
];

/// The text of a shipped file, unpacked; `None` for a name not in [`FILES`].
pub fn embedded_text(name: &str) -> Option<Result<String, FrontdeskError>> {
    let (_, mut bytes) = FILES.into_iter().find(|(n, _)| *n == name)?;
    let mut text = String::new();
    let read = if name.ends_with(".gz") {
        GzDecoder::new(bytes).read_to_string(&mut text)
    } else {
        bytes.read_to_string(&mut text)
    };
    Some(read.map(|_| text).map_err(|source| FrontdeskError::Io { path: name.to_owned(), source }))
}

impl World {
    /// The shipped world, read from the bytes in the binary.
    ///
    /// # Errors
    /// If a fixture was damaged before the build.
    pub fn embedded() -> Result<Self, FrontdeskError> {
        fn rows<T: serde::de::DeserializeOwned>(name: &str) -> Result<Vec<T>, FrontdeskError> {
            embedded_text(name).map_or(Ok(Vec::new()), |text| from_jsonl(name, &text?))
        }
        Ok(Self {
            train: rows("prompts.train.jsonl")?,
            validation: rows("prompts.validation.jsonl")?,
            heldout: rows("prompts.heldout.jsonl")?,
            demonstrations: rows("demonstrations.jsonl.gz")?,
            pairs_train: rows("pairs.train.jsonl.gz")?,
            pairs_validation: rows("pairs.validation.jsonl")?,
        })
    }

    /// Every file of [`FILES`] as text, in that order.
    ///
    /// # Errors
    /// If a row cannot be written as JSON.
    pub fn to_texts(&self) -> Result<[(&'static str, String); 6], FrontdeskError> {
        Ok([
            ("prompts.train.jsonl", to_jsonl(&self.train)?),
            ("prompts.validation.jsonl", to_jsonl(&self.validation)?),
            ("prompts.heldout.jsonl", to_jsonl(&self.heldout)?),
            ("demonstrations.jsonl.gz", to_jsonl(&self.demonstrations)?),
            ("pairs.train.jsonl.gz", to_jsonl(&self.pairs_train)?),
            ("pairs.validation.jsonl", to_jsonl(&self.pairs_validation)?),
        ])
    }

    /// Writes every file into `dir`, which is created if need be.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write_all(&self, dir: &Path) -> Result<(), FrontdeskError> {
        let io = |path: &Path| {
            let path = path.display().to_string();
            move |source| FrontdeskError::Io { path, source }
        };
        std::fs::create_dir_all(dir).map_err(io(dir))?;
        for (name, text) in self.to_texts()? {
            let path = dir.join(name);
            let bytes =
                if name.ends_with(".gz") { pack(&text).map_err(io(&path))? } else { text.into_bytes() };
            std::fs::write(&path, bytes).map_err(io(&path))?;
        }
        Ok(())
    }
}

/// Gzip without name and time, so that the same text gives the same bytes.
fn pack(text: &str) -> std::io::Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), Compression::best());
    out.write_all(text.as_bytes())?;
    out.finish()
}
