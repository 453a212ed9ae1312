//! SHA-256 of bytes, files and directories, as 64 lower-case hex digits.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes read at a time.
const CHUNK: usize = 1 << 18;

/// SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file's bytes.
///
/// # Errors
/// If it cannot be read.
pub fn file_sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&chunk[..n]),
        }
    }
}

/// SHA-256 of every file below a directory, by path (with `/`). Hidden files and directories do not count.
///
/// # Errors
/// If something cannot be read.
pub fn files_sha256(dir: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    list(dir, "", &mut files)?;
    Ok(files)
}

/// SHA-256 of a directory: of one line `HASH  PATH\n` per file, as `sha256sum` prints them, sorted by path (with `/`).
/// Hidden files and `README.md`, which is written anew after an evaluation, do not count.
///
/// # Errors
/// If something cannot be read.
pub fn dir_sha256(dir: &Path) -> io::Result<String> {
    let mut files = files_sha256(dir)?;
    files.remove("README.md");
    let text: String = files.iter().map(|(name, hash)| format!("{hash}  {name}\n")).collect();
    Ok(sha256(text.as_bytes()))
}

fn list(dir: &Path, prefix: &str, files: &mut BTreeMap<String, String>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let own = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if own.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{own}");
        if path.is_dir() {
            list(&path, &format!("{name}/"), files)?;
        } else {
            files.insert(name, file_sha256(&path)?);
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_standard_and_of_sha256sum() {
        // FIPS 180-4, "abc" and the empty message.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), abc);
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "abc").unwrap();
        assert_eq!(file_sha256(&dir.path().join("a")).unwrap(), abc);
        std::fs::create_dir(dir.path().join("b")).unwrap();
        std::fs::write(dir.path().join("b/c"), "").unwrap();
        std::fs::write(dir.path().join(".hidden"), "x").unwrap();
        // (cd DIR; sha256sum a b/c) | sha256sum
        let whole = "6eba35d7428180154eea7332bad049a6c0105a4bbd23c3a7542600305d2cbedb";
        assert_eq!(dir_sha256(dir.path()).unwrap(), whole);
        std::fs::write(dir.path().join("README.md"), "x").unwrap();
        assert_eq!(dir_sha256(dir.path()).unwrap(), whole);
        let files = files_sha256(dir.path()).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["README.md", "a", "b/c"]);
        assert_eq!(files["a"], abc);
        std::fs::rename(dir.path().join("a"), dir.path().join("d")).unwrap();
        assert_ne!(dir_sha256(dir.path()).unwrap(), whole);
        assert!(dir_sha256(&dir.path().join("none")).is_err());
    }
}
