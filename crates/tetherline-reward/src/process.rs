//! A user's program that reads JSON lines and writes JSON lines, started without a shell and ended by a limit of time.
//!
//! Writing and reading run on threads of their own, so a program may write before it has read everything,
//! or read nothing at all, whatever the size of the system's pipes. After `timeout_s` it is killed. The
//! clock decides about nothing but that.

use crate::RewardError;
use serde::Serialize;
use std::io::{BufWriter, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How much of standard error is quoted.
const STDERR_TAIL: usize = 500;

/// A program to run.
pub(crate) struct Process<'a> {
    /// What it is for, in messages.
    pub(crate) name: &'a str,
    pub(crate) argv: &'a [String],
    pub(crate) timeout_s: f64,
}

impl Process<'_> {
    /// Each row as one line of JSON.
    pub(crate) fn lines<T: Serialize>(&self, rows: &[T]) -> Result<Vec<u8>, RewardError> {
        let mut lines = Vec::new();
        for row in rows {
            serde_json::to_writer(&mut lines, row)
                .map_err(|e| self.error(format!("was given a sample that is no JSON: {e}"), b""))?;
            lines.push(b'\n');
        }
        Ok(lines)
    }

    /// Runs the program to its end, or the end of its time.
    pub(crate) fn exchange(&self, input: Vec<u8>) -> Result<Exchange, RewardError> {
        let limit = Duration::from_secs_f64(self.timeout_s);
        let deadline = Instant::now() + limit;
        let late = || format!("did not finish within {} s (timeout_s) and was killed", self.timeout_s);
        let (program, arguments) = match self.argv.split_first() {
            Some(parts) => parts,
            None => return Err(self.error("is empty".into(), b"")),
        };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| self.error(format!("cannot be started: {e}"), b""))?;

        if let Some(stdin) = child.stdin.take() {
            // A program that stops reading closes the pipe; its exit status and scores tell the rest.
            thread::spawn(move || BufWriter::new(stdin).write_all(&input));
        }
        let stdout = read_to_end(child.stdout.take());
        let stderr = read_to_end(child.stderr.take());

        let remaining = || deadline.saturating_duration_since(Instant::now());
        let ended = if stdout.wait(remaining()) {
            loop {
                match child.try_wait() {
                    Ok(Some(status)) => break Ok(status),
                    Ok(None) if remaining().is_zero() => break Err(late()),
                    Ok(None) => thread::sleep(Duration::from_millis(1)),
                    Err(e) => break Err(format!("cannot be waited for: {e}")),
                }
            }
        } else {
            Err(late())
        };
        if ended.is_err() {
            // Its pipes may live on in grandchildren, so their readers are not waited for. Both fail only where the child
            // is gone already.
            let _ = child.kill();
            let _ = child.wait();
            stderr.wait(Duration::from_millis(200));
        } else {
            stderr.wait(remaining().min(Duration::from_secs(1)));
        }
        Ok(Exchange { ended, stdout: stdout.so_far(), stderr: stderr.so_far() })
    }

    pub(crate) fn error(&self, problem: String, stderr: &[u8]) -> RewardError {
        let text = String::from_utf8_lossy(stderr);
        let text = text.trim();
        let start = text.char_indices().rev().nth(STDERR_TAIL - 1).map_or(0, |(i, _)| i);
        let stderr = if text.is_empty() { String::new() } else { format!("; it wrote: {}", &text[start..]) };
        let command = self.argv.join(" ");
        RewardError::Command { rule: self.name.to_owned(), command, problem, stderr }
    }
}

/// What a program did.
pub(crate) struct Exchange {
    /// Its exit status, or why there is none.
    ended: Result<ExitStatus, String>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Exchange {
    /// Lines that were written whole, but for blank ones, each with its number from 1; and why no more came.
    pub(crate) fn replies(&self, process: &Process<'_>) -> (Vec<(usize, String)>, Option<RewardError>) {
        let fail = |problem: String| process.error(problem, &self.stderr);
        let why = match &self.ended {
            Ok(status) if status.success() => None,
            Ok(status) => Some(fail(format!("failed: {status}"))),
            Err(problem) => Some(fail(problem.clone())),
        };
        let whole = match why {
            None => &self.stdout[..],
            // The last line may have been cut.
            Some(_) => &self.stdout[..self.stdout.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1)],
        };
        let text = String::from_utf8_lossy(whole);
        let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
        (lines.map(|(i, l)| (i + 1, l.to_owned())).collect(), why)
    }

    /// What it wrote to standard error.
    pub(crate) fn stderr(&self) -> &[u8] {
        &self.stderr
    }
}

/// A pipe that is read on a thread of its own.
struct Reading {
    bytes: Arc<Mutex<Vec<u8>>>,
    closed: Receiver<()>,
}

impl Reading {
    /// Whether the pipe was closed within `limit`.
    fn wait(&self, limit: Duration) -> bool {
        self.closed.recv_timeout(limit).is_ok()
    }

    fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read_to_end(pipe: Option<impl Read + Send + 'static>) -> Reading {
    let (send, closed) = channel();
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&bytes);
    thread::spawn(move || {
        let mut block = [0; 8192];
        if let Some(mut pipe) = pipe {
            // What came before a read error is still worth having.
            while let Ok(n @ 1..) = pipe.read(&mut block) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&block[..n]);
            }
        }
        let _ = send.send(());
    });
    Reading { bytes, closed }
}
