//! `tether drift`, `explain` and `label` as a user meets them: exit codes, what is printed, what is written.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const LLAMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/tiny-llama");

fn tether(dir: &Path, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tether"))
        .args(args)
        .current_dir(dir)
        .env_remove("TETHER_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[track_caller]
fn ends(dir: &Path, args: &[&str], input: &str, code: i32) -> (String, String) {
    let o = tether(dir, args, input);
    let (out, err) = (String::from_utf8(o.stdout).unwrap(), String::from_utf8(o.stderr).unwrap());
    assert_eq!(o.status.code(), Some(code), "{args:?}\n{out}\n{err}");
    (out, err)
}

fn prompts(dir: &Path) {
    let rows = ["the boat", "the rope and the tide", "a lamp"];
    let text: String =
        rows.iter().map(|p| format!("{{\"prompt\": \"{p}\", \"domain\": \"d\\u001b[2J\"}}\n")).collect();
    std::fs::write(dir.join("p.jsonl"), text).unwrap();
}

#[test]
fn a_drift_over_its_limit_is_exit_code_5() {
    let dir = tempfile::tempdir().unwrap();
    prompts(dir.path());
    let args =
        ["drift", "--policy", LLAMA, "--reference", LLAMA, "--prompts", "p.jsonl", "--max-new-tokens", "6"];
    let with = |more: &[&'static str]| [&args[..], more].concat();
    let (out, _) = ends(dir.path(), &with(&["--limit", "0", "--html", "d.html"]), "", 0);
    assert!(out.contains("KL(policy ‖ reference)") && !out.contains('\u{1b}'), "{out}");
    let html = std::fs::read_to_string(dir.path().join("d.html")).unwrap();
    assert!(html.starts_with("<!doctype html>") && !html.contains('\u{1b}'));

    // A log, read by two models of one vocabulary; what is over a limit is still shown.
    std::fs::write(dir.path().join("log.jsonl"), "{\"prompt\": \"the boat\", \"response\": \" is here\"}\n")
        .unwrap();
    let gpt = LLAMA.replace("tiny-llama", "tiny-gpt2");
    let args =
        ["drift", "--policy", LLAMA, "--reference", &gpt, "--prompts", "log.jsonl", "--given", "--json"];
    let over = [&args[..], &["--limit", "0.001"]].concat();
    let (out, err) = ends(dir.path(), &over, "", 5);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let kl = json["kl_nats_per_sequence"]["mean"].as_f64().unwrap();
    assert!(kl > 0.1 && json["given"] == true && json["schema"] == 1, "{out}");
    assert!(err.contains("above the limit of 0.001") && err.contains("nats per sequence"), "{err}");
    ends(dir.path(), &[&args[..], &["--limit-per-token", "1000", "--limit", "1000"]].concat(), "", 0);
    let (_, err) = ends(dir.path(), &[&args[..], &["--temperature", "0"]].concat(), "", 2);
    assert!(err.contains("--temperature: must be above 0"), "{err}");
    let (_, err) = ends(dir.path(), &[&args[..], &["--limit", "-1"]].concat(), "", 2);
    assert!(err.contains("between 0"), "{err}");
}

#[test]
fn an_explanation_needs_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let (_, err) = ends(dir.path(), &["explain", "nowhere"], "", 2);
    assert_eq!(err, "error: nowhere is not a run directory (it has no config.toml)\n");
    ends(dir.path(), &["explain", "nowhere", "--update", "3", "--from", "1"], "", 2);
    let (_, err) = ends(dir.path(), &["explain", "nowhere", "--update", "0"], "", 2);
    assert!(err.contains("updates count from 1"), "{err}");
}

#[test]
fn a_labeler_judges_stops_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    prompts(dir.path());
    let make = [
        "label",
        "--policy",
        LLAMA,
        "--other",
        LLAMA,
        "--prompts",
        "p.jsonl",
        "--out",
        "pairs.jsonl",
        "--labeler",
        "ann",
        "--max-new-tokens",
        "6",
    ];
    let go_on = ["label", "--out", "pairs.jsonl", "--labeler", "ann"];
    let (_, err) = ends(dir.path(), &go_on, "", 2);
    assert!(err.contains("there is no queue yet"), "{err}");
    let (out, err) = ends(dir.path(), &make, "1\nr shorter\n2\nu\nx\nq\n", 0);
    assert!(err.contains("3 pairs to judge") && err.contains("1 of 3 judged"), "{err}");
    assert!(out.contains("the last answer is taken back") && out.contains("keys: 1 left"), "{out}");
    assert!(!out.contains('\u{1b}'));
    let (_, err) = ends(dir.path(), &make, "", 2);
    assert!(err.contains("leave --policy out to go on"), "{err}");
    let (_, err) = ends(dir.path(), &go_on, "t\nr kind\n1\nu\nr kinder\n2\n2\n", 0);
    assert!(err.contains("3 of 3 judged"), "{err}");
    let pairs = std::fs::read_to_string(dir.path().join("pairs.jsonl")).unwrap();
    assert_eq!(pairs.lines().count(), 2);
    assert!(pairs.contains("\"reason\":\"kinder\"") && pairs.contains("\"labeler\":\"ann\""), "{pairs}");
    ends(dir.path(), &["data", "check", "pairs.jsonl"], "", 0);
    ends(dir.path(), &["label", "--out", "pairs.jsonl", "--labeler", "bob"], "1\n1\n1\n", 0);
    let (out, _) = ends(dir.path(), &["label", "--agreement", "pairs.labels.jsonl", "--json"], "", 0);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["agreement"]["shared_items"], 3);
    assert_eq!(json["labelers"]["bob"]["judged"], 3);
    assert_eq!(json["labelers"]["ann"]["ties"], 1);
    let (out, _) = ends(dir.path(), &["label", "--agreement", "pairs.labels.jsonl"], "", 0);
    assert!(out.contains("Krippendorff") && out.contains("ann and bob: agree on"), "{out}");
}
