//! Whether a file is the one that the hub announced: its entity tag says what it must hash to.
//!
//! The tag of a file in large storage (weights) is the SHA-256 of its bytes, 64 hex digits. That of any other file is
//! the SHA-1 of git's blob, `"blob <length>\0"` and the bytes, 40 digits; some mirrors send the SHA-1 of the bytes alone.
//! A tag of another form says nothing of the content, and the size has to do.

use ring::digest::{Context, Digest, SHA1_FOR_LEGACY_USE_ONLY as SHA1, SHA256};
use std::io::Read;
use std::path::Path;

/// Bytes hashed at a time.
const CHUNK: usize = 1 << 20;

/// The hash of the file in the form of its tag, where the two differ; `None` where they agree or the tag is no hash.
///
/// # Errors
/// If the file cannot be read.
pub(super) fn mismatch(path: &Path, tag: &str) -> std::io::Result<Option<String>> {
    if !tag.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let length = std::fs::metadata(path)?.len();
    let found = match tag.len() {
        64 => hashes(path, [Context::new(&SHA256)])?.to_vec(),
        40 => {
            let mut blob = Context::new(&SHA1);
            blob.update(format!("blob {length}\0").as_bytes());
            hashes(path, [blob, Context::new(&SHA1)])?.to_vec()
        }
        _ => return Ok(None),
    };
    let agrees = found.iter().any(|hash| hash.eq_ignore_ascii_case(tag));
    Ok(found.into_iter().next().filter(|_| !agrees))
}

/// Each hash of the file in hex digits; it is read once.
fn hashes<const N: usize>(path: &Path, mut contexts: [Context; N]) -> std::io::Result<[String; N]> {
    let mut file = std::fs::File::open(path)?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            n => contexts.iter_mut().for_each(|c| c.update(&chunk[..n])),
        }
    }
    Ok(contexts.map(|c| hex(&c.finish())))
}

fn hex(digest: &Digest) -> String {
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_with_what_sha256sum_and_git_say() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        // printf '{"a": 1}' | sha256sum, git hash-object --stdin, sha1sum
        let (sha256, blob, sha1) = (
            "f9d86028c6e0d64e225186f96acb69338b2c59764df79162107f5c4bb34d1310",
            "4a036f56bb619924ec4189bd84ed716c766971ae",
            "e4ad4daad53a2eec0313386ada88211e50d693bd",
        );
        std::fs::write(&path, r#"{"a": 1}"#).unwrap();
        for right in [sha256, &sha256.to_uppercase(), blob, sha1] {
            assert_eq!(mismatch(&path, right).unwrap(), None, "{right}");
        }
        std::fs::write(&path, r#"{"a": 2}"#).unwrap();
        for (wrong, len) in [(sha256, 64), (blob, 40), (sha1, 40)] {
            assert_eq!(mismatch(&path, wrong).unwrap().map(|h| h.len()), Some(len), "{wrong}");
        }
        // No hash of any kind that is known here: an MD5, a part count of object storage, a word.
        for other in ["d41d8cd98f00b204e9800998ecf8427e", "d41d8cd98f00b204e9800998ecf8427e-2", "v1"] {
            assert_eq!(mismatch(&path, other).unwrap(), None, "{other}");
        }
        assert!(mismatch(&dir.path().join("none"), blob).is_err());
    }

    #[test]
    fn a_file_of_many_chunks_is_hashed_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        // head -c 3000000 /dev/zero | sha256sum
        std::fs::write(&path, vec![0; 3_000_000]).unwrap();
        assert_eq!(
            mismatch(&path, "35bce4eae54ec8e6cc2868baa8d157914d6ae2858811b4cc0c078c94460fa26f").unwrap(),
            None
        );
    }
}
