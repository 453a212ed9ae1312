//! The command line as a user meets it: help texts, exit codes, and the words of errors.
//!
//! Help texts are compared with `tests/help/*.txt`; run with `TETHER_BLESS=1` to write them anew.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn tether(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tether"))
        .args(args)
        .current_dir(dir)
        .env("COLUMNS", "100")
        .env_remove("TETHER_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stdout(o: &Output) -> String {
    String::from_utf8(o.stdout.clone()).unwrap()
}

fn stderr(o: &Output) -> String {
    String::from_utf8(o.stderr.clone()).unwrap()
}

#[track_caller]
fn fails(dir: &Path, args: &[&str], code: i32) -> String {
    let o = tether(dir, args);
    assert_eq!(o.status.code(), Some(code), "{args:?}\n{}\n{}", stdout(&o), stderr(&o));
    stderr(&o)
}

#[track_caller]
fn works(dir: &Path, args: &[&str]) -> String {
    let o = tether(dir, args);
    assert_eq!(o.status.code(), Some(0), "{args:?}\n{}\n{}", stdout(&o), stderr(&o));
    stdout(&o)
}

#[test]
fn every_command_teaches_with_an_example() {
    let dir = tempfile::tempdir().unwrap();
    let expected_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    let bless = std::env::var_os("TETHER_BLESS").is_some();
    let commands: &[&[&str]] = &[
        &[],
        &["run"],
        &["plan"],
        &["compare"],
        &["sweep"],
        &["sft"],
        &["reward"],
        &["ppo"],
        &["dpo"],
        &["eval"],
        &["generate"],
        &["score"],
        &["drift"],
        &["explain"],
        &["label"],
        &["export"],
        &["data"],
        &["data", "check"],
        &["explain-config"],
        &["kl"],
        &["kl", "control"],
        &["kl", "replay"],
        &["kl", "simulate"],
        &["gate"],
        &["audit"],
        &["audit", "verify"],
        &["audit", "replay"],
        &["policy"],
        &["policy", "add"],
        &["policy", "list"],
        &["policy", "show"],
        &["policy", "lineage"],
        &["policy", "diff"],
        &["policy", "promote"],
        &["policy", "rollback"],
        &["policy", "retire"],
        &["policy", "tag"],
        &["policy", "note"],
        &["policy", "rules"],
        &["policy", "audit"],
        &["report"],
        &["init"],
    ];
    for command in commands {
        let help = works(dir.path(), &[command, &["--help"][..]].concat()).replace("tether.exe", "tether");
        assert!(help.contains("\nExample"), "{command:?} has no example");
        let name = if command.is_empty() { "tether".to_owned() } else { command.join("-") };
        let file = expected_dir.join(format!("{name}.txt"));
        if bless {
            std::fs::write(&file, &help).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap().replace("\r\n", "\n");
        assert_eq!(help, expected, "{}: TETHER_BLESS=1 writes it anew", file.display());
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    assert!(fails(dir.path(), &["run", "quickstart", "--set", "ppo.lr"], 2).contains("KEY=VALUE"));
    assert!(fails(dir.path(), &["frobnicate"], 2).contains("unrecognized subcommand"));
    let e = fails(dir.path(), &["run", "quikstart"], 2);
    assert_eq!(
        e,
        "error: no recipe file quikstart, and no embedded recipe of that name (there are: quickstart, \
         trl-parity, word-reward, chat)\n"
    );
    let e =
        fails(dir.path(), &["generate", "--model", "m", "--prompts", "p", "--out", "o", "--top-p", "1.5"], 2);
    assert_eq!(e, "error: --top-p: must be in (0, 1], got 1.5\n");
}

#[test]
fn a_wrong_recipe_names_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let write = |text: &str| std::fs::write(dir.path().join("r.toml"), text).unwrap();
    write("[model]\npolicy = \"frontdesk\"\n\n[ppo]\nclip_rnage = 0.2\n");
    let e = fails(dir.path(), &["run", "r.toml"], 2);
    assert!(e.starts_with("error: r.toml:5:1: unknown field `clip_rnage`, expected one of `steps`"), "{e}");
    assert!(e.ends_with("\n  5 | clip_rnage = 0.2\n    | ^^^^^^^^^^\n"), "{e}");
    write("[model]\npolicy = \"frontdesk\"\n\n[ppo]\nclip_range = 3\n");
    assert_eq!(
        fails(dir.path(), &["run", "r.toml", "--dry-run"], 2),
        "error: r.toml:5:1: ppo.clip_range: must be in (0, 1), got 3\n  5 | clip_range = 3\n    | ^^^^^^^^^^\n"
    );
    write("[kl.fixed]\ninit = -1\n");
    let e = fails(dir.path(), &["run", "r.toml"], 2);
    assert!(e.starts_with("error: r.toml:2:1: kl.fixed.init: must be"), "{e}");
    let e = fails(dir.path(), &["run", "quickstart", "--set", "sampling.temperature=-1"], 2);
    assert!(e.starts_with("error: --set sampling.temperature=-1: must be above 0"), "{e}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was made");
}

#[test]
fn a_bad_data_file_is_exit_code_3() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.jsonl");
    std::fs::write(&file, "{\"prompt\": \"Hi\"}\n{\"prompt\": 3}\n").unwrap();
    let o = tether(dir.path(), &["data", "check", "p.jsonl"]);
    assert_eq!(o.status.code(), Some(3));
    assert!(stdout(&o).contains("prompt"), "{}", stdout(&o));
    assert_eq!(stderr(&o), "error: p.jsonl: 1 bad rows, 1 good ones\n");
    assert!(fails(dir.path(), &["data", "check", "nowhere.jsonl"], 3).contains("nowhere.jsonl"));
    std::fs::write(&file, "{\"prompt\": \"Hi\"}\n").unwrap();
    works(dir.path(), &["data", "check", "p.jsonl"]);
}

#[test]
fn a_dry_run_prints_the_plan_and_the_resolved_recipe_and_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let text = works(dir.path(), &["run", "quickstart", "--dry-run", "--set", "seed=5"]);
    assert!(text.starts_with("# quickstart in runs"), "{text}");
    for stage in ["sft", "reward", "ppo", "eval"] {
        assert!(text.contains(&format!("\n#   {stage:<6} ")), "{stage} in\n{text}");
    }
    assert!(text.contains("\nseed = 5\n") && text.contains("\n[kl.auto_pi]\n"), "{text}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    // What it prints is a recipe.
    let file: PathBuf = dir.path().join("again.toml");
    std::fs::write(&file, &text).unwrap();
    let again = works(dir.path(), &["run", "again.toml", "--dry-run"]);
    assert_eq!(again, text);
}

#[test]
fn init_writes_a_recipe_once() {
    let dir = tempfile::tempdir().unwrap();
    for preset in ["quickstart", "trl-parity", "word-reward", "chat"] {
        let said = works(dir.path(), &["init", "--preset", preset]);
        assert!(said.starts_with(&format!("wrote {preset}.toml\n")), "{said}");
        let text = std::fs::read_to_string(dir.path().join(format!("{preset}.toml"))).unwrap();
        assert!(text.starts_with("# "), "{preset} explains itself");
    }
    assert!(fails(dir.path(), &["init"], 2).contains("quickstart.toml is there already"));
    assert!(fails(dir.path(), &["init", "--preset", "nope"], 2).contains("trl-parity, word-reward, chat"));
    // The quickstart runs as written; others say what they still need.
    works(dir.path(), &["run", "quickstart.toml", "--dry-run"]);
    let e = fails(dir.path(), &["run", "word-reward.toml", "--dry-run"], 2);
    assert!(e.contains("--set model.policy="), "{e}");
}

#[test]
fn a_report_needs_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let e = fails(dir.path(), &["report", "nowhere"], 2);
    assert_eq!(e, "error: nowhere is not a run directory (it has no config.toml)\n");
}
