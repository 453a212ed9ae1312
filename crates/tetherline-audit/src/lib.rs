//! Append-only JSON lines in which every edit shows.
//!
//! A record is one line that holds the SHA-256 of the line before it and, at its end, that of itself:
//!
//! ```text
//! {"seq":0,"prev":"0000…","event":"start", … ,"hash":"9f2c…"}
//! {"seq":1,"prev":"9f2c…","event":"decision", … ,"hash":"41d0…"}
//! ```
//!
//! `hash` is the SHA-256 of the line's own bytes before `,"hash"`. So a byte that is edited, a line that is removed,
//! inserted or moved breaks the chain, and [`verify`] names the first line that is wrong. What no chain shows by itself is
//! that its *end* was cut off, or that all of it was written anew: for that its [`Head`] has to be kept elsewhere.
//!
//! No clock, no key: who can write the file can write another one; the head that lies elsewhere is the proof.

mod chain;
mod hash;
mod log;

pub use chain::{Broken, Head, Record, seal, verify};
pub use hash::{dir_sha256, file_sha256, files_sha256, sha256};
pub use log::{AuditError, AuditLog};
