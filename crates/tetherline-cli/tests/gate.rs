//! `tether gate` judges a run only by the numbers that its audit has.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::Command;

const LLAMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/tiny-llama");

#[track_caller]
fn ends(dir: &Path, args: &[&str], code: i32) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tether"));
    let o = command.args(args).current_dir(dir).env_remove("TETHER_LOG").output().unwrap();
    let text = [o.stdout, o.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert_eq!(o.status.code(), Some(code), "{args:?}\n{text}");
    text
}

/// Trains and evaluates a policy in `run/`.
fn trained(dir: &Path) {
    let rows = ["the boat", "the rope and the tide", "a lamp", "an order"];
    let text: String = rows.iter().map(|p| format!("{{\"prompt\": \"{p}\"}}\n")).collect();
    std::fs::write(dir.join("p.jsonl"), text).unwrap();
    let recipe = format!(
        "[model]\npolicy = '{LLAMA}'\n[data]\nprompts = 'p.jsonl'\neval_prompts = 'p.jsonl'\n[reward]\nmodel_weight = 0.0\n\
         [[reward.rule]]\nkeyword = {{ words = ['e'] }}\n[sampling]\nmax_new_tokens = 4\n[ppo]\nsteps = 2\nbatch_size = 4\n\
         [eval]\nprompts = 4\n"
    );
    std::fs::write(dir.join("r.toml"), recipe).unwrap();
    ends(dir, &["run", "r.toml", "--out", "run"], 0);
    std::fs::write(dir.join("gates.toml"), "[kl]\nmax = 1000.0\n").unwrap();
}

#[test]
fn a_run_with_other_numbers_than_its_audit_has_is_not_judged() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    trained(dir);
    let gate = ["gate", "--candidate", "run", "--gates", "gates.toml"];
    assert!(!ends(dir, &gate, 0).contains("warning"));
    // Everything that a gate reads: the comparison, the logs, the ledger of drift in the policy, and the chain itself.
    let audit = std::fs::read_to_string(dir.join("run/audit.jsonl")).unwrap();
    for (file, words) in [
        ("evaluation.json", "evaluation.json is not what it was when the audit recorded it"),
        ("metrics.jsonl", "metrics.jsonl is not what it was"),
        ("control.jsonl", "control.jsonl is not what it was"),
        ("policy/drift_ledger.json", "policy/ is not what it was"),
        ("config.toml", "config.toml is not what it was"),
        ("audit.jsonl", "audit.jsonl: line"),
    ] {
        let path = dir.join("run").join(file);
        let was = std::fs::read_to_string(&path).unwrap();
        let edited =
            if file == "audit.jsonl" { was.replacen("\"step\"", "\"stap\"", 1) } else { format!("{was}\n") };
        assert_ne!(was, edited);
        std::fs::write(&path, edited).unwrap();
        let text = ends(dir, &gate, 1);
        assert!(
            text.contains(words) && text.contains("are not judged") && text.contains("run: "),
            "{file}: {text}"
        );
        // As a baseline no more than as a candidate.
        std::fs::write(dir.join("c.json"), "{\"kl\": 3}").unwrap();
        let as_baseline = ["gate", "--candidate", "c.json", "--baseline", "run", "--gates", "gates.toml"];
        assert!(ends(dir, &as_baseline, 1).contains(words), "{file}");
        std::fs::write(&path, was).unwrap();
    }
    // A comparison that no evaluation left, and a run without an audit.
    let body = audit.lines().filter(|l| !l.contains("\"event\":\"evaluation\""));
    let kept: String =
        body.take_while(|l| !l.contains("\"event\":\"end\"")).map(|l| format!("{l}\n")).collect();
    std::fs::write(dir.join("run/audit.jsonl"), kept).unwrap();
    std::fs::remove_file(dir.join("run/report.html")).unwrap();
    assert!(ends(dir, &gate, 1).contains("evaluation.json is not in the audit"));
    std::fs::remove_file(dir.join("run/audit.jsonl")).unwrap();
    let text = ends(dir, &gate, 1);
    assert!(text.contains("audit.jsonl: there is no such file"), "{text}");
    // Where the end is missing, what it would cover is doubtful, and the verdict says so.
    let no_end: String =
        audit.lines().take_while(|l| !l.contains("\"event\":\"end\"")).map(|l| format!("{l}\n")).collect();
    std::fs::write(dir.join("run/audit.jsonl"), no_end).unwrap();
    assert!(ends(dir, &gate, 0).contains("its audit has no end"));
}
