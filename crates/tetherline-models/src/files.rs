//! The files of a model directory: on disk, or embedded in the binary.
//!
//! Small files are read whole. Weights are mapped, a tensor at a time ([`Weights`]), so that loading a model holds its
//! parameters and one tensor of the file, not the file a second time.

use crate::error::{ModelError, Result};
use std::borrow::Cow;
use std::fs::File;
use std::ops::{Deref, Range};
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
    /// A directory of Python `peft` and the base that its adapter is for. A file is looked for in the adapter's
    /// directory first.
    Adapter {
        /// The directory with `adapter_config.json`.
        dir: PathBuf,
        /// How what is trained on calls the base: a directory or a hub id.
        name: String,
        /// The base.
        base: Box<ModelFiles>,
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
            let problem = if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
                gguf(&path.file_name().unwrap_or_default().to_string_lossy())
            } else if path.exists() {
                "it is a file, not a directory".to_owned()
            } else {
                "no such directory".to_owned()
            };
            return Err(ModelError::NotAModel { path, problem });
        }
        Ok(Self::Dir(path))
    }

    /// The adapter in directory `dir` over `base`, which is called `name`.
    ///
    /// # Errors
    /// If the base is itself an adapter.
    pub fn adapter(dir: PathBuf, name: String, base: Self) -> Result<Self> {
        if matches!(base, Self::Adapter { .. }) || base.adapter_base()?.is_some() {
            let problem =
                format!("its base {name} is an adapter itself; merge that one first (`tether export`)");
            return Err(ModelError::NotAModel { path: dir, problem });
        }
        Ok(Self::Adapter { dir, name, base: Box::new(base) })
    }

    /// Path (or name) of a file, for messages.
    pub fn path(&self, file: &str) -> PathBuf {
        match self {
            Self::Dir(dir) => dir.join(file),
            Self::Adapter { dir, base, .. } => {
                let own = dir.join(file);
                if own.exists() { own } else { base.path(file) }
            }
            Self::Embedded { name, .. } => Path::new(&format!("embedded:{name}")).join(file),
        }
    }

    /// Path (or name) of the whole, for messages.
    pub fn root(&self) -> PathBuf {
        match self {
            Self::Dir(dir) | Self::Adapter { dir, .. } => dir.clone(),
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
                let path = inside(dir, file)?;
                match std::fs::read(&path) {
                    Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(ModelError::Read { path, source }),
                }
            }
            Self::Adapter { dir, base, .. } => match Self::Dir(dir.clone()).read(file)? {
                Some(bytes) => Ok(Some(bytes)),
                None => base.read(file),
            },
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
            Self::Dir(dir) => Ok(inside(dir, file)?.is_file()),
            Self::Adapter { dir, base, .. } => Ok(inside(dir, file)?.is_file() || base.has(file)?),
            Self::Embedded { files, .. } => Ok(files.iter().any(|(n, _)| *n == file)),
        }
    }

    /// (name, template) of each `additional_chat_templates/NAME.jinja`, by name.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn named_templates(&self) -> Result<Vec<(String, String)>> {
        let dir = match self {
            Self::Dir(dir) => dir,
            // A template beside the adapter takes the place of all of the base's.
            Self::Adapter { dir, base, .. } => {
                let own = Self::Dir(dir.clone()).named_templates()?;
                return if own.is_empty() { base.named_templates() } else { Ok(own) };
            }
            Self::Embedded { .. } => return Ok(Vec::new()),
        };
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

    /// A weights file, to be read in parts; `None` if there is no such file.
    ///
    /// # Errors
    /// As [`ModelFiles::read`].
    pub(crate) fn weights(&self, file: &str) -> Result<Option<Weights>> {
        match self {
            Self::Adapter { dir, base, .. } => match Self::Dir(dir.clone()).weights(file)? {
                Some(own) => Ok(Some(own)),
                None => base.weights(file),
            },
            Self::Dir(dir) => {
                let path = inside(dir, file)?;
                match File::open(&path) {
                    Ok(file) => Ok(Some(Weights::File { file, path })),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(ModelError::Read { path, source }),
                }
            }
            Self::Embedded { files, .. } => {
                Ok(files.iter().find(|(n, _)| *n == file).map(|(_, b)| Weights::Embedded(b)))
            }
        }
    }

    /// Names of the files, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Self::Dir(dir) | Self::Adapter { dir, .. } => std::fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect(),
            Self::Embedded { files, .. } => files.iter().map(|(n, _)| (*n).to_owned()).collect(),
        };
        names.sort();
        names
    }

    /// The base that this directory's `adapter_config.json` names, and its revision on the hub; none of a directory
    /// that holds no adapter.
    ///
    /// # Errors
    /// If the file cannot be read or names no base.
    pub fn adapter_base(&self) -> Result<Option<(String, Option<String>)>> {
        crate::lora::base_of(self)
    }

    /// The files of the whole model that this is an adapter for, or of itself.
    pub fn base(&self) -> &Self {
        match self {
            Self::Adapter { base, .. } => base.base(),
            whole => whole,
        }
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

    /// Whether `config.json` names a classifier of the BERT family, which is an [`Encoder`](crate::Encoder) and no decoder.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn is_encoder(&self) -> Result<bool> {
        let config = self.json("config.json")?.unwrap_or_default();
        Ok(config["architectures"][0].as_str().is_some_and(crate::config::is_encoder))
    }
}

/// The path of a file of `dir`. Names come from index files, which are not trusted.
fn inside(dir: &Path, file: &str) -> Result<PathBuf> {
    if Path::new(file).components().count() != 1 || file.contains(['/', '\\']) || file == ".." {
        return Err(ModelError::NotAModel {
            path: dir.to_owned(),
            problem: format!("the file name {file:?} leaves the directory"),
        });
    }
    Ok(dir.join(file))
}

/// Why a GGUF file is refused, and what to do.
pub(crate) fn gguf(name: &str) -> String {
    format!(
        "{name} is a GGUF file: weights quantised for inference, which cannot be trained; take the safetensors directory \
         that it was made from, or convert it with Python: AutoModelForCausalLM.from_pretrained(DIR, \
         gguf_file={name:?}).save_pretrained(OUT), and the tokenizer likewise"
    )
}

/// A weights file of which spans are read.
#[derive(Debug)]
pub(crate) enum Weights {
    /// On disk.
    File {
        /// Open.
        file: File,
        /// For messages.
        path: PathBuf,
    },
    /// In the program.
    Embedded(&'static [u8]),
}

/// A span of a weights file.
#[derive(Debug)]
pub(crate) enum Span {
    Mapped(memmap2::Mmap),
    Embedded(&'static [u8]),
}

impl Deref for Span {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}

impl Weights {
    /// Bytes of the file.
    pub(crate) fn len(&self) -> Result<usize> {
        match self {
            Self::File { file, path } => {
                let meta = file.metadata();
                let meta = meta.map_err(|source| ModelError::Read { path: path.clone(), source })?;
                Ok(usize::try_from(meta.len()).unwrap_or(usize::MAX))
            }
            Self::Embedded(bytes) => Ok(bytes.len()),
        }
    }

    /// The bytes of a span that lies in the file. Pages are read when they are first looked at, and given back with
    /// the span.
    ///
    /// # Errors
    /// If the system does not map the file.
    #[expect(
        unsafe_code,
        reason = "a map is unsound only while somebody shortens or rewrites the file under it. A model directory is \
                  written whole and renamed into its place; the map lives for the copy of one tensor; what it shows is \
                  copied as numbers, and any bytes are some number"
    )]
    pub(crate) fn span(&self, range: Range<usize>) -> Result<Span> {
        match self {
            Self::File { file, path } => {
                // SAFETY: the reason above.
                let map = unsafe {
                    memmap2::MmapOptions::new().offset(range.start as u64).len(range.len()).map(file)
                };
                map.map(Span::Mapped).map_err(|source| ModelError::Read { path: path.clone(), source })
            }
            Self::Embedded(bytes) => Ok(Span::Embedded(&bytes[range])),
        }
    }
}
