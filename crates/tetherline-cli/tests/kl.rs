//! `tether kl` as another trainer's process would use it.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

const CONFIG: &str = "[kl.auto_pi]\ninit = 0.2\ntarget = 6.0\n[kl.trust_region]\n";

fn tether(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tether"));
    command.current_dir(dir);
    command
}

fn line(step: u64, kl: &str, rest: &str) -> String {
    format!(r#"{{"step":{step},"domains":[{{"id":"all","mean_kl":{kl},"var":11.0,"n":512}}]{rest}}}"#)
}

fn control(dir: &Path, lines: &[String]) -> Vec<serde_json::Value> {
    let mut child = tether(dir)
        .args(["kl", "control", "--config", "kl.toml", "--state", "state.json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut answers = Vec::new();
    for line in lines {
        writeln!(stdin, "{line}").unwrap();
        let mut answer = String::new();
        // Blocks unless every answer is flushed at once.
        stdout.read_line(&mut answer).unwrap();
        answers.push(serde_json::from_str(&answer).unwrap());
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
    answers
}

#[test]
fn every_line_is_answered_at_once_and_a_restart_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kl.toml"), CONFIG).unwrap();
    let first = control(
        dir.path(),
        &[
            line(1, "5.0", ""),
            line(1, "9.9", r#","phase":"trial","trial":0"#),
            line(2, "\"x\"", ""),
            line(2, "null", ""),
        ],
    );
    assert_eq!(first[0]["verdict"], "accept");
    assert_eq!(first[1]["verdict"], "scale");
    assert!(first[1]["scale"].as_f64().unwrap() < 1.0);
    assert_eq!(first[2]["error"]["field"], "mean_kl");
    assert_eq!((&first[3]["verdict"], &first[3]["beta"]), (&"reject".into(), &first[0]["beta"]));
    // The state remembers step 2: it is a duplicate now.
    let again = control(dir.path(), &[line(2, "5.0", ""), line(3, "5.0", "")]);
    assert_eq!(again[0]["reason"]["code"], "duplicate_step");
    assert_eq!(again[1]["verdict"], "accept");
}

#[test]
fn replay_and_simulate_print_tables_that_fit() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kl.toml"), CONFIG).unwrap();
    let log: String =
        (1..=40).map(|t| format!("{{\"episode\":{},\"objective/kl\":{}.5}}\n", t * 64, t / 4)).collect();
    std::fs::write(dir.path().join("log.jsonl"), log).unwrap();
    let arguments: [&[&str]; 2] = [
        &["kl", "replay", "log.jsonl", "--config", "kl.toml", "--out", "decisions.jsonl"],
        &["kl", "simulate", "--updates", "400", "--seeds", "1", "--svg", "trace.svg"],
    ];
    for args in arguments {
        let out = tether(dir.path()).args(args).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.lines().count() > 8, "{text}");
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("decisions.jsonl")).unwrap().lines().count(), 40);
    assert!(std::fs::read_to_string(dir.path().join("trace.svg")).unwrap().starts_with("<svg"));
}

#[test]
fn a_wrong_section_names_its_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kl.toml"), CONFIG.replace("6.0", "-6.0")).unwrap();
    let out = tether(dir.path()).args(["kl", "control", "--config", "kl.toml"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(text.contains("kl.toml:3") && text.contains("target"), "{text}");
}
