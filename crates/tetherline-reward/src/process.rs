//! A user's program that reads JSON lines and writes JSON lines, started without a shell and ended by limits of time.
//!
//! Writing and reading run on threads of their own, so a program may write before it has read everything,
//! or read nothing at all, whatever the size of the system's pipes. After `timeout_s` it is killed, and what it started with
//! it. The clock decides about nothing but that.
//!
//! With `sample_timeout_s` it is killed, too, once no line has come for so long. The row it was at stays without an answer, and it
//! is started anew for the rows behind; the same where it ends early. [`SILENT`] starts in a row without a line end that, and so does
//! `timeout_s`, which is for all of them together.

use crate::RewardError;
use crate::source::shorten;
use serde::Serialize;
use std::io::{BufWriter, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How much of standard error is quoted.
const STDERR_TAIL: usize = 500;

/// Starts without a line, one after the other, after which a program counts as broken.
const SILENT: usize = 3;

/// Most of an answer that is read, bytes.
const MOST: usize = 64 << 20;

/// A program to run.
pub(crate) struct Process<'a> {
    /// What it is for, in messages.
    pub(crate) name: &'a str,
    pub(crate) argv: &'a [String],
    /// Seconds for all rows of a call.
    pub(crate) timeout_s: f64,
    /// Seconds for each of them, from one line to the next.
    pub(crate) sample_timeout_s: Option<f64>,
}

/// What a program answered, one entry per row.
#[derive(Debug)]
pub(crate) struct Replies<R> {
    pub(crate) rows: Vec<Option<R>>,
    /// Why not all of them came, or all is not well although they did.
    pub(crate) why: Option<RewardError>,
}

impl Process<'_> {
    /// The answers to `rows`: one line of JSON each to the program, and one line each of it, which `parse` reads.
    ///
    /// # Errors
    /// Where a row is no JSON.
    pub(crate) fn ask<T: Serialize, R>(
        &self,
        rows: &[T],
        parse: impl Fn(&str) -> Result<R, String>,
    ) -> Result<Replies<R>, RewardError> {
        let deadline = Instant::now() + Duration::from_secs_f64(self.timeout_s);
        let mut out = Replies { rows: Vec::with_capacity(rows.len()), why: None };
        let mut silent = 0;
        while out.rows.len() < rows.len() {
            let rest = &rows[out.rows.len()..];
            let exchange = self.exchange(self.lines(rest)?, rest.len(), deadline);
            let fail = |problem: String| self.error(problem, &exchange.stderr);
            let lines = exchange.lines();
            let mut why = exchange.why.clone();
            let mut replies = Vec::with_capacity(lines.len());
            for (number, line) in &lines {
                let reply = parse(line);
                let problem = reply.as_ref().err();
                why = why.or(problem.map(|p| format!("wrote `{}` on line {number}: {p}", shorten(line, 80))));
                replies.push(reply.ok());
            }
            let (got, expected) = (replies.len(), rest.len());
            if got != expected {
                let problem = format!("wrote {got} lines for {expected} samples; one each is expected");
                why = why.or(Some(problem));
            }
            out.why = out.why.or(why.map(fail));
            silent = if got == 0 { silent + 1 } else { 0 };
            // Of too many lines it cannot be told which belongs to which row.
            if got <= expected {
                out.rows.extend(replies);
            }
            let again = self.sample_timeout_s.is_some() && got < expected && silent < SILENT;
            if again && Instant::now() < deadline {
                out.rows.push(None);
            } else {
                out.rows.resize_with(rows.len(), || None);
            }
        }
        Ok(out)
    }

    /// Each row as one line of JSON.
    fn lines<T: Serialize>(&self, rows: &[T]) -> Result<Vec<u8>, RewardError> {
        let mut lines = Vec::new();
        for row in rows {
            serde_json::to_writer(&mut lines, row)
                .map_err(|e| self.error(format!("was given a sample that is no JSON: {e}"), b""))?;
            lines.push(b'\n');
        }
        Ok(lines)
    }

    /// Runs the program to its end, or the end of its time.
    fn exchange(&self, input: Vec<u8>, expected: usize, deadline: Instant) -> Exchange {
        let nothing = |problem: String| Exchange { why: Some(problem), ..Exchange::default() };
        let Some((program, arguments)) = self.argv.split_first() else { return nothing("is empty".into()) };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: it can be killed with all that it started, and Ctrl-C is not for it.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(e) => return nothing(format!("cannot be started: {e}")),
        };
        if let Some(stdin) = child.stdin.take() {
            // A program that stops reading closes the pipe; its exit status and lines tell the rest.
            thread::spawn(move || BufWriter::new(stdin).write_all(&input));
        }
        let stdout = read_to_end(child.stdout.take());
        let stderr = read_to_end(child.stderr.take());

        let late = || format!("did not finish within {} s (timeout_s) and was killed", self.timeout_s);
        let remaining = || deadline.saturating_duration_since(Instant::now());
        let ended = match stdout.wait(deadline, self.sample_timeout_s, expected) {
            Ended::Closed => loop {
                match child.try_wait() {
                    Ok(Some(status)) => break Ok(status),
                    Ok(None) if remaining().is_zero() => break Err(late()),
                    Ok(None) => thread::sleep(Duration::from_millis(1)),
                    Err(e) => break Err(format!("cannot be waited for: {e}")),
                }
            },
            Ended::Late => Err(late()),
            Ended::Stalled(s) => Err(format!("wrote no line for {s} s (sample_timeout_s) and was killed")),
        };
        let patience = match &ended {
            Ok(_) => remaining().min(Duration::from_secs(1)),
            Err(_) => {
                kill(&mut child);
                Duration::from_millis(200)
            }
        };
        stderr.wait(Instant::now() + patience, None, 0);
        let why = match ended {
            Ok(status) if status.success() => None,
            Ok(status) => Some(format!("failed: {status}")),
            Err(problem) => Some(problem),
        };
        Exchange { why, stdout: stdout.so_far(), stderr: stderr.so_far() }
    }

    fn error(&self, problem: String, stderr: &[u8]) -> RewardError {
        let text = String::from_utf8_lossy(stderr);
        let text = text.trim();
        let start = text.char_indices().rev().nth(STDERR_TAIL - 1).map_or(0, |(i, _)| i);
        let stderr = if text.is_empty() { String::new() } else { format!("; it wrote: {}", &text[start..]) };
        let command = self.argv.join(" ");
        RewardError::Command { rule: self.name.to_owned(), command, problem, stderr }
    }
}

/// Ends a program and all that is in its group. Each fails only where there is nothing left to end.
fn kill(child: &mut Child) {
    #[cfg(unix)]
    let _ = Command::new("sh")
        .args(["-c", &format!("kill -KILL -{}", child.id())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let _ = child.kill();
    let _ = child.wait();
}

/// What a program did.
#[derive(Default)]
struct Exchange {
    /// Why it did not end well.
    why: Option<String>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Exchange {
    /// Lines that were written whole, but for blank ones, each with its number from 1.
    fn lines(&self) -> Vec<(usize, String)> {
        let whole = match self.why {
            None => &self.stdout[..],
            // The last line may have been cut.
            Some(_) => &self.stdout[..self.stdout.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1)],
        };
        let text = String::from_utf8_lossy(whole);
        let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
        lines.map(|(i, l)| (i + 1, l.to_owned())).collect()
    }
}

/// How waiting for a pipe ended.
enum Ended {
    Closed,
    Late,
    /// After so many seconds without a line.
    Stalled(f64),
}

/// A pipe that is read on a thread of its own.
struct Reading {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Lines so far, after each block; gone once the pipe is closed.
    lines: Receiver<usize>,
}

impl Reading {
    /// Waits until the pipe is closed, for each of `expected` lines at most `each` seconds.
    fn wait(&self, deadline: Instant, each: Option<f64>, expected: usize) -> Ended {
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let stalls = each.filter(|_| seen < expected);
            let line = stalls.map(|s| Duration::from_secs_f64(s).saturating_sub(since.elapsed()));
            match self.lines.recv_timeout(line.unwrap_or(left).min(left)) {
                Ok(lines) if lines > seen => (seen, since) = (lines, Instant::now()),
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return Ended::Closed,
                Err(RecvTimeoutError::Timeout) => match (stalls, line) {
                    (Some(s), Some(line)) if line < left => return Ended::Stalled(s),
                    _ => return Ended::Late,
                },
            }
        }
    }

    fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read_to_end(pipe: Option<impl Read + Send + 'static>) -> Reading {
    let (send, lines) = channel();
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&bytes);
    thread::spawn(move || {
        let (mut block, mut seen) = ([0; 8192], 0);
        let Some(mut pipe) = pipe else { return };
        // What came before a read error is still worth having. What writes without end finds its pipe closed.
        while let Ok(n @ 1..) = pipe.read(&mut block) {
            let mut all = shared.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend_from_slice(&block[..n]);
            let long = all.len() > MOST;
            drop(all);
            seen += block[..n].iter().filter(|&&b| b == b'\n').count();
            if long || send.send(seen).is_err() {
                break;
            }
        }
    });
    Reading { bytes, lines }
}
