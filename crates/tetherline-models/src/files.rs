//! The files of a model directory: on disk, or embedded in the binary.

use crate::error::{ModelError, Result};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Where a model's files come from.
#[derive(Clone, Debug)]
pub enum ModelFiles {
    /// A directory.
    Dir(PathBuf),
    /// Files compiled into the program, under a name for messages.
    Embedded {
        /// Shown in messages.
        name: &'static str,
        /// (file name, contents).
        files: &'static [(&'static str, &'static [u8])],
    },
}

impl ModelFiles {
    /// A directory on disk.
    ///
    /// # Errors
    /// If it is not a directory.
    pub fn dir(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if !path.is_dir() {
            let problem =
                if path.exists() { "it is a file, not a directory" } else { "no such directory" }.to_owned();
            return Err(ModelError::NotAModel { path, problem });
        }
        Ok(Self::Dir(path))
    }

    /// Path (or name) of a file, for messages.
    pub fn path(&self, file: &str) -> PathBuf {
        match self {
            Self::Dir(dir) => dir.join(file),
            Self::Embedded { name, .. } => Path::new(&format!("embedded:{name}")).join(file),
        }
    }

    /// Path (or name) of the whole, for messages.
    pub fn root(&self) -> PathBuf {
        match self {
            Self::Dir(dir) => dir.clone(),
            Self::Embedded { name, .. } => PathBuf::from(format!("embedded:{name}")),
        }
    }

    /// The contents of a file, or `None` if there is no such file.
    ///
    /// # Errors
    /// If it exists but cannot be read, or its name leaves the directory.
    pub fn read(&self, file: &str) -> Result<Option<Cow<'static, [u8]>>> {
        match self {
            Self::Dir(dir) => {
                self.check_name(file)?;
                let path = dir.join(file);
                match std::fs::read(&path) {
                    Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(ModelError::Read { path, source }),
                }
            }
            Self::Embedded { files, .. } => {
                Ok(files.iter().find(|(n, _)| *n == file).map(|(_, b)| Cow::Borrowed(*b)))
            }
        }
    }

    /// Whether there is such a file.
    ///
    /// # Errors
    /// If its name leaves the directory.
    pub fn has(&self, file: &str) -> Result<bool> {
        match self {
            Self::Dir(dir) => {
                self.check_name(file)?;
                Ok(dir.join(file).is_file())
            }
            Self::Embedded { files, .. } => Ok(files.iter().any(|(n, _)| *n == file)),
        }
    }

    /// (name, template) of each `additional_chat_templates/NAME.jinja`, by name.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn named_templates(&self) -> Result<Vec<(String, String)>> {
        let Self::Dir(dir) = self else { return Ok(Vec::new()) };
        let dir = dir.join("additional_chat_templates");
        let Ok(entries) = std::fs::read_dir(&dir) else { return Ok(Vec::new()) };
        let paths = entries.flatten().map(|e| e.path());
        let mut out = Vec::new();
        for path in paths.filter(|p| p.extension().is_some_and(|e| e == "jinja")) {
            let text = std::fs::read_to_string(&path)
                .map_err(|source| ModelError::Read { path: path.clone(), source })?;
            out.push((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), text));
        }
        out.sort();
        Ok(out)
    }

    /// Names come from index files, which are not trusted.
    fn check_name(&self, file: &str) -> Result<()> {
        if Path::new(file).components().count() != 1 || file.contains(['/', '\\']) || file == ".." {
            return Err(ModelError::NotAModel {
                path: self.root(),
                problem: format!("the file name {file:?} leaves the directory"),
            });
        }
        Ok(())
    }

    /// A JSON file, or `None` if there is no such file.
    ///
    /// # Errors
    /// If it exists but is not valid JSON.
    pub fn json(&self, file: &str) -> Result<Option<serde_json::Value>> {
        let Some(bytes) = self.read(file)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| ModelError::Tokenizer {
            path: self.path(file),
            problem: format!("not valid JSON: {e}"),
        })
    }
}
