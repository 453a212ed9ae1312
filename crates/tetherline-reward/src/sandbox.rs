//! Runs a program that nobody has read: no network, no writing outside an empty directory, limits on CPU time, memory
//! and wall-clock time.
//!
//! On Linux alone, by the tools of util-linux (2.36 or newer) and the shell, so that there is no unsafe code here:
//! `unshare` makes namespaces of users, mounts, network, processes and IPC, `prlimit` sets the limits, `sandbox.sh` makes
//! every mount read-only, and `setpriv` drops what would undo that. Where any of it is missing or forbidden (other
//! systems; containers and kernels without user namespaces) the sandbox refuses with the reason, and nothing is run
//! without it.
//!
//! What it does not do: files that the user can read can be read; memory is limited per process, and a program may have
//! [`MOST_PROCESSES`]; a kernel bug stays one. The environment is emptied.

use crate::ProgramConfig;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const SCRIPT: &str = include_str!("sandbox.sh");
/// Processes and threads that a program may have.
const MOST_PROCESSES: u32 = 256;
/// How long setting up may take: a twentieth of a second, and more on a busy machine.
const SET_UP: Duration = Duration::from_secs(30);
/// Size of `/tmp`, MiB.
const TMP_MB: u64 = 64;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With exit status 0, and the token as the last line of its output.
    Well,
    /// With another, without the token, or killed by a limit.
    Badly,
    /// Not within its time.
    Late,
}

/// Runs `config.argv` in an empty directory that holds `text` as `config.file`, and waits for `token`.
///
/// # Errors
/// Why the sandbox could not be set up.
pub(crate) fn run(config: &ProgramConfig, text: &str, token: &str) -> Result<Ended, String> {
    if !cfg!(target_os = "linux") {
        return Err("needs Linux: unchecked programs run in its namespaces alone".into());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut child = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child"])
        .args(["--", "prlimit", "--core=0", "--nofile=256"])
        .arg(format!("--cpu={}", config.cpu_s))
        .arg(format!("--as={}", config.memory_mb << 20))
        .arg(format!("--nproc={MOST_PROCESSES}"))
        .args(["--", "sh", "-c", SCRIPT, "sandbox"])
        .args(&config.argv)
        .env_clear()
        .env("PATH", if path.is_empty() { PATH.to_owned() } else { format!("{path}:{PATH}") })
        .env("HOME", "/tmp")
        .env("LANG", "C.UTF-8")
        .env("TETHER_FILE", &config.file)
        .env("TETHER_TMP_MB", TMP_MB.to_string())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("needs `unshare` of util-linux, which cannot be started: {e}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let text = text.to_owned();
        // A set-up that failed closes the pipe; what it says of that is read below.
        std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    }
    let said = set_up(child.stderr.take());
    let output = tail_of(child.stdout.take());
    let Ok(said) = said.recv_timeout(SET_UP) else {
        end(&mut child);
        return Err(format!("was not ready within {} s", SET_UP.as_secs()));
    };
    if said.trim() != "ready" {
        end(&mut child);
        return Err(format!("cannot be set up here: {}", said.trim().replace('\n', "; ")));
    }
    let deadline = Instant::now() + Duration::from_secs_f64(config.timeout_s);
    let remaining = || deadline.saturating_duration_since(Instant::now());
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                // All processes are gone, so the pipe is closed.
                let output = output.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
                let passed = status.success() && output.trim_end().lines().next_back() == Some(token);
                return Ok(if passed { Ended::Well } else { Ended::Badly });
            }
            Ok(None) if remaining().is_zero() => {
                end(&mut child);
                return Ok(Ended::Late);
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            Err(e) => {
                end(&mut child);
                return Err(format!("cannot be waited for: {e}"));
            }
        }
    }
}

/// What setting up says: `ready`, or why it failed. The pipe stays open after that, as `unshare` waits for the program.
fn set_up(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut said = String::new();
        if let Some(pipe) = pipe {
            let mut pipe = BufReader::new(pipe.take(4096));
            while !said.ends_with("ready\n") && matches!(pipe.read_line(&mut said), Ok(1..)) {}
        }
        let _ = send.send(said);
    });
    receive
}

/// The end of what comes through a pipe, once it is closed.
fn tail_of(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let (mut kept, mut block) = (Vec::new(), [0; 4096]);
        if let Some(mut pipe) = pipe {
            while let Ok(n @ 1..) = pipe.read(&mut block) {
                kept.extend_from_slice(&block[..n]);
                if kept.len() > 64 << 10 {
                    kept.drain(..kept.len() - 4096);
                }
            }
        }
        let _ = send.send(String::from_utf8_lossy(&kept).into_owned());
    });
    receive
}

/// Kills the sandbox and, since its first process dies with it, all that runs in it.
fn end(child: &mut Child) {
    // Both fail only where it is gone already.
    let _ = child.kill();
    let _ = child.wait();
}
