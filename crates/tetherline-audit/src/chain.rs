//! The chain: how a record is sealed, and what is wrong with a chain.

use crate::hash::sha256;
use serde_json::{Map, Value};
use std::fmt;

/// What stands before a record's own hash.
const SEAL: &str = ",\"hash\":\"";
/// Hex digits of a SHA-256.
const DIGITS: usize = 64;
/// Keys that belong to the chain.
const RESERVED: [&str; 3] = ["seq", "prev", "hash"];

/// The end of a chain: how many records it has and the hash of the last. Kept elsewhere, it proves that nothing before it
/// was changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Records so far; the next one's `seq`.
    pub records: u64,
    /// Hash of the last record, 64 hex digits; zeros before the first.
    pub hash: String,
}

impl Default for Head {
    fn default() -> Self {
        Self { records: 0, hash: "0".repeat(DIGITS) }
    }
}

impl fmt::Display for Head {
    /// `RECORDS:HASH`, as [`Head::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.records, self.hash)
    }
}

impl Head {
    /// Reads `RECORDS:HASH`.
    pub fn parse(text: &str) -> Option<Self> {
        let (records, hash) = text.trim().split_once(':')?;
        let is_hash = hash.len() == DIGITS && hash.bytes().all(is_digit);
        is_hash.then_some(Self { records: records.parse().ok()?, hash: hash.to_owned() })
    }
}

/// One record that has been verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its place, from 0.
    pub seq: u64,
    /// Its own hash.
    pub hash: String,
    /// All that it says.
    pub body: Map<String, Value>,
}

/// What is wrong with a chain, and at which line (from 1).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// A line's bytes are not those that its hash was made of.
    #[error("line {line} was edited: its bytes do not hash to the {hash} it ends with")]
    Edited {
        /// Which line.
        line: usize,
        /// The first digits of the hash that it claims.
        hash: String,
    },
    /// A line is whole, but another one should stand here.
    #[error(
        "line {line} does not follow the line before it: it is record {found}, after {expected} records. A line was \
         removed, inserted or moved"
    )]
    Order {
        /// Which line.
        line: usize,
        /// Records before it.
        expected: u64,
        /// The record's own number.
        found: u64,
    },
    /// A line is no record at all.
    #[error("line {line} is no audit record: {why}")]
    NoRecord {
        /// Which line.
        line: usize,
        /// What it lacks.
        why: String,
    },
    /// The last line has no end: a process was killed while it wrote, or the file was cut.
    #[error("line {line} is cut off ({bytes} bytes without an end)")]
    CutOff {
        /// Which line.
        line: usize,
        /// How much there is of it.
        bytes: usize,
    },
    /// The chain is whole, but it is not the one whose head was kept.
    #[error(
        "the chain has {found} records and does not contain the head {head}: its end was cut off, or it was written anew"
    )]
    OtherHead {
        /// The head that was kept.
        head: Head,
        /// Records in the chain.
        found: u64,
    },
}

fn is_digit(b: u8) -> bool {
    b.is_ascii_digit() || (b'a'..=b'f').contains(&b)
}

/// Makes `body` the record after `head`: its line without the newline, and the new head.
///
/// # Errors
/// A message where the body is empty or has a key of the chain's own.
pub fn seal(head: &Head, body: &Map<String, Value>) -> Result<(String, Head), String> {
    if let Some(key) = RESERVED.iter().find(|key| body.contains_key(**key)) {
        return Err(format!("an audit record cannot have a key {key:?} of its own"));
    }
    if body.is_empty() {
        return Err("an audit record needs something to say".to_owned());
    }
    let fields = serde_json::to_string(body).map_err(|e| e.to_string())?;
    let fields = fields.get(1..fields.len() - 1).unwrap_or_default();
    let text = format!("{{\"seq\":{},\"prev\":\"{}\",{fields}", head.records, head.hash);
    let hash = sha256(text.as_bytes());
    let line = format!("{text}{SEAL}{hash}\"}}");
    Ok((line, Head { records: head.records + 1, hash }))
}

/// Verifies a whole chain. With `kept`, the head that was kept elsewhere must be in it: it may have grown since.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(bytes: &[u8], kept: Option<&Head>) -> Result<(Head, Vec<Record>), Broken> {
    let mut head = Head::default();
    let mut records = Vec::new();
    let mut found = kept.is_none_or(|kept| *kept == head);
    for (i, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        let Some(text) = line.strip_suffix(b"\n") else {
            return Err(Broken::CutOff { line: i + 1, bytes: line.len() });
        };
        let record = check(i + 1, text, &head)?;
        head = Head { records: record.seq + 1, hash: record.hash.clone() };
        found = found || kept == Some(&head);
        records.push(record);
    }
    match kept {
        Some(kept) if !found => Err(Broken::OtherHead { head: kept.clone(), found: head.records }),
        _ => Ok((head, records)),
    }
}

/// Checks one line, which must be the record after `head`.
fn check(line: usize, bytes: &[u8], head: &Head) -> Result<Record, Broken> {
    let none = |why: &str| Broken::NoRecord { line, why: why.to_owned() };
    let text = std::str::from_utf8(bytes).map_err(|_| none("it is not UTF-8"))?;
    let (start, claimed) = text
        .strip_suffix("\"}")
        .and_then(|rest| rest.split_at_checked(rest.len().checked_sub(DIGITS)?))
        .and_then(|(start, hash)| Some((start.strip_suffix(SEAL)?, hash)))
        .ok_or_else(|| none("it does not end with its hash"))?;
    if sha256(start.as_bytes()) != claimed {
        return Err(Broken::Edited { line, hash: claimed.chars().take(12).collect() });
    }
    let mut body: Map<String, Value> =
        serde_json::from_str(text).map_err(|e| Broken::NoRecord { line, why: e.to_string() })?;
    let seq = body.remove("seq").and_then(|v| v.as_u64()).ok_or_else(|| none("it has no `seq`"))?;
    let prev = body.remove("prev");
    let follows = format!("{{\"seq\":{},\"prev\":\"{}\",", head.records, head.hash);
    if !start.starts_with(&follows) || prev.as_ref().and_then(Value::as_str) != Some(&head.hash) {
        return Err(Broken::Order { line, expected: head.records, found: seq });
    }
    body.remove("hash");
    Ok(Record { seq, hash: claimed.to_owned(), body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn body(event: &str, n: u64) -> Map<String, Value> {
        match json!({"event": event, "n": n, "text": "β, \"quoted\"\n"}) {
            Value::Object(map) => map,
            _ => unreachable!(),
        }
    }

    fn chain(n: u64) -> (Vec<String>, Head) {
        let mut head = Head::default();
        let mut lines = Vec::new();
        for i in 0..n {
            let (line, next) = seal(&head, &body("x", i)).unwrap();
            lines.push(line);
            head = next;
        }
        (lines, head)
    }

    fn text(lines: &[String]) -> Vec<u8> {
        lines.iter().flat_map(|l| format!("{l}\n").into_bytes()).collect()
    }

    #[test]
    fn a_record_is_what_sha256sum_says_it_is() {
        let (lines, _) = chain(1);
        let zeros = "0".repeat(64);
        let start = format!(r#"{{"seq":0,"prev":"{zeros}","event":"x","n":0,"text":"β, \"quoted\"\n""#);
        // printf '%s' "$start" | sha256sum
        assert_eq!(
            lines[0],
            format!(
                "{start},\"hash\":\"8c2e7fae85319d7bfce335133bdfa4772487add3033e703b3e0134e2199408f3\"}}"
            )
        );
    }

    #[test]
    fn a_whole_chain_is_verified_and_read() {
        let (lines, head) = chain(5);
        let (found, records) = verify(&text(&lines), None).unwrap();
        assert_eq!((&found, records.len()), (&head, 5));
        assert_eq!(records[3].body, body("x", 3));
        assert_eq!(verify(b"", None).unwrap().0, Head::default());
        assert_eq!(Head::parse(&head.to_string()), Some(head));
        assert!(Head::parse("5:ABC").is_none() && Head::parse("x").is_none());
    }

    #[test]
    fn a_line_removed_moved_repeated_or_inserted_is_named() {
        let (lines, head) = chain(6);
        let broken = |change: &dyn Fn(&mut Vec<String>)| {
            let mut lines = lines.clone();
            change(&mut lines);
            verify(&text(&lines), None).unwrap_err().to_string()
        };
        assert!(broken(&|l| drop(l.remove(0))).starts_with("line 1 does not follow"));
        assert!(broken(&|l| drop(l.remove(3))).starts_with("line 4 does not follow"));
        assert!(broken(&|l| l.swap(1, 4)).starts_with("line 2 does not follow"));
        assert!(broken(&|l| l.insert(2, l[2].clone())).starts_with("line 4 does not follow"));
        assert!(broken(&|l| l.insert(2, String::new())).starts_with("line 3 is no audit record"));
        // One that was sealed anew, with a hash that is right, is not what the next line names.
        let forged =
            seal(&Head { records: 2, hash: verify(&text(&lines[..2]), None).unwrap().0.hash }, &body("y", 9));
        let forged = forged.unwrap().0;
        assert!(broken(&|l| l[2] = forged.clone()).starts_with("line 4 does not follow"));
        // The end cut off is seen by whoever kept the head, and a chain that has grown still has it.
        let kept = Some(&head);
        assert!(verify(&text(&lines[..5]), kept).unwrap_err().to_string().contains("cut off"));
        assert!(verify(&text(&chain(9).0), kept).is_ok());
        let mut torn = text(&lines);
        torn.pop();
        assert!(verify(&torn, None).unwrap_err().to_string().starts_with("line 6 is cut off"));
    }

    #[test]
    fn a_body_cannot_forge_the_chain() {
        for key in RESERVED {
            let mut forged = body("x", 1);
            forged.insert(key.to_owned(), 3.into());
            assert!(seal(&Head::default(), &forged).unwrap_err().contains(key));
        }
        assert!(seal(&Head::default(), &Map::new()).is_err());
    }

    proptest! {
        /// Whatever single byte is changed, dropped or added, it shows, and not after its own line's successor.
        #[test]
        fn any_byte_that_is_touched_shows(at in 0usize..100_000, with in any::<u8>(), how in 0u8..3) {
            let (lines, head) = chain(4);
            let mut bytes = text(&lines);
            let at = at % bytes.len();
            let line = 1 + bytes[..at].iter().filter(|b| **b == b'\n').count();
            match how {
                0 if bytes[at] == with => return Ok(()),
                0 => bytes[at] = with,
                1 => { bytes.remove(at); }
                _ => bytes.insert(at, with),
            }
            if bytes == text(&lines) {
                return Ok(());
            }
            let broken = verify(&bytes, Some(&head)).unwrap_err();
            let named = match broken {
                Broken::Edited { line, .. } | Broken::Order { line, .. } | Broken::NoRecord { line, .. }
                | Broken::CutOff { line, .. } => line,
                Broken::OtherHead { .. } => line,
            };
            prop_assert!((line..=line + 1).contains(&named), "{named} for {line}");
        }
    }
}
