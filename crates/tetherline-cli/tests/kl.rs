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
fn a_rollback_goes_on_from_the_kept_checkpoint_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kl.toml"), "[kl.auto_pi]\ninit = 0.2\ntarget = 6.0\n[kl.guard]\n")
        .unwrap();
    let mut lines: Vec<_> = (1..=9).map(|t| line(t, "3.0", "")).collect();
    lines.push(r#"{"checkpoint": 9}"#.to_owned());
    lines.extend((10..=20).map(|t| line(t, if t < 15 { "9.0" } else { "NaN" }, "")));
    let first = control(dir.path(), &lines);
    assert_eq!(first[9], serde_json::json!({"checkpoint": 9, "kept": [9]}));
    assert!(first.iter().any(|a| a["verdict"] == "rollback"), "{first:?}");
    assert!(dir.path().join("state.json.checkpoints").is_file());
    let lines = [r#"{"rollback": 8}"#, r#"{"rollback": 9, "x": 1}"#, r#"{"rollback": 9}"#].map(str::to_owned);
    let again = control(dir.path(), &lines);
    assert_eq!(again[0]["error"]["field"], "rollback");
    assert_eq!(again[1]["error"]["field"], "x");
    assert!(again[2]["beta"]["all"].as_f64() < first[13]["beta"]["all"].as_f64(), "{again:?}");
}

fn fails(dir: &Path, args: &[&str]) -> String {
    let out = tether(dir).arg("kl").args(args).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{args:?}: {text}");
    text
}

#[test]
fn odd_values_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kl.toml"), CONFIG).unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["--tau", "NaN"], "--tau"),
        (&["--tau", "-1"], "--tau"),
        (&["--tau", "0.5"], "between 1 and"),
        (&["--target", "inf"], "--target"),
        (&["--target", "0"], "--target"),
        (&["--init", "-0.1"], "--init"),
        (&["--init", "100"], "--init 100: adaptive.init"),
        (&["--nan-rate", "1.5"], "between 0 and 1"),
        (&["--nan-rate", "nan"], "between 0 and 1"),
        (&["--mixing", "-0.1"], "between 0 and 1"),
        (&["--mixing", "1.1"], "between 0 and 1"),
        (&["--jump", "0"], "--jump"),
        (&["--jump", "-2"], "--jump"),
        (&["--target-step", "0"], "--target-step"),
        (&["--target-step", "NaN"], "--target-step"),
        (&["--delay", "60", "--updates", "60"], "--delay 60 must be below --updates"),
        (&["--updates", "1000000", "--seeds", "1000000000"], "too many"),
        (&["--updates", "1000000", "--seeds", "18446744073709551615"], "too many"),
        (&["--seeds", "0"], "--seeds"),
        (&["--n", "0"], "--n"),
        (&["--updates", "49"], "--updates"),
        (&["--plant", "real"], "first-order"),
    ];
    for (flags, words) in cases {
        let text = fails(dir.path(), &[&["simulate"], *flags].concat());
        assert!(text.contains(words), "{flags:?}: {text}");
    }
    for flags in [["--rows", "0"], ["--episodes", "0"], ["--rows", "-1"], ["--episodes", "1.5"]] {
        let text = fails(dir.path(), &[&["replay", "log.jsonl", "--config", "kl.toml"], &flags[..]].concat());
        assert!(text.contains(flags[0]), "{flags:?}: {text}");
    }
    let scheduled = format!("{CONFIG}[kl.target_schedule]\nfrom = 0.5\nsteps = 100\n");
    std::fs::write(dir.path().join("kl.toml"), scheduled).unwrap();
    let text = fails(dir.path(), &["simulate", "--config", "kl.toml", "--target-step", "2"]);
    assert!(text.contains("--target-step: kl.toml has [kl.target_schedule]"), "{text}");
}

#[test]
fn a_law_that_can_cross_zero_warns_with_the_sequences_of_an_update() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kl.toml"), "[kl.ziegler]\ninit = 0.2\ntarget = 6.0\nhorizon = 100\n")
        .unwrap();
    std::fs::write(dir.path().join("log.jsonl"), "{\"step\": 1, \"objective/kl\": 5.0}\n").unwrap();
    let warns = |args: &[&str]| {
        let out = tether(dir.path()).arg("kl").args(args).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{text}");
        text.contains("warning: kl.ziegler.horizon")
    };
    let replay = ["replay", "log.jsonl", "--config", "kl.toml", "--episodes"];
    assert!(warns(&[&replay[..], &["500"]].concat()) && !warns(&[&replay[..], &["499"]].concat()));
    let simulate = ["simulate", "--config", "kl.toml", "--seeds", "1", "--updates", "50", "--n"];
    assert!(warns(&[&simulate[..], &["500"]].concat()) && !warns(&[&simulate[..], &["499"]].concat()));
}

#[test]
fn simulated_domains_trials_and_targets_answer_to_their_flags() {
    let dir = tempfile::tempdir().unwrap();
    let budgets = "[[kl.budget]]\nid = \"a\"\ntarget = 2.0\n[[kl.budget]]\nid = \"b\"\ntarget = 4.0\n";
    std::fs::write(dir.path().join("kl.toml"), format!("{CONFIG}{budgets}")).unwrap();
    let run = |flags: &[&str]| {
        let fixed = ["kl", "simulate", "--config", "kl.toml", "--seeds", "1", "--updates", "600"];
        let out = tether(dir.path()).args(fixed).args(flags).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let plain = run(&[]);
    assert_eq!(plain, run(&["--mixing", "0.3"]), "the default");
    for flags in [&["--mixing", "0.9"][..], &["--exact-trials"], &["--target-step", "0.5"], &["--jump", "2"]]
    {
        assert_ne!(plain, run(flags), "{flags:?}");
    }
    run(&["--target-step", "0.5", "--svg", "trace.svg"]);
    let svg = std::fs::read_to_string(dir.path().join("trace.svg")).unwrap();
    let steps = svg.lines().filter(|l| l.contains("dasharray") && l.contains("384.0,")).count();
    assert_eq!(steps, 2, "both targets step half way");
}

#[test]
fn replay_and_simulate_print_tables_that_fit() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kl.toml"), CONFIG).unwrap();
    let log: String = (1..=40)
        .map(|t| {
            let kl = if t % 9 == 0 { "NaN".to_owned() } else { format!("{}.5", t / 4) };
            format!("{{\"episode\":{},\"objective/kl\":{kl}}}\n", t * 64)
        })
        .collect();
    std::fs::write(dir.path().join("log.jsonl"), log).unwrap();
    let arguments: [&[&str]; 3] = [
        &["kl", "replay", "log.jsonl", "--config", "kl.toml", "--out", "decisions.jsonl"],
        &["kl", "simulate", "--updates", "400", "--seeds", "1", "--svg", "trace.svg"],
        &["kl", "simulate", "--updates", "400", "--seeds", "1", "--target", "0.001", "--init", "4"],
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

/// KL of a domain stands beside β of that domain, in the log and in the replay.
#[test]
fn a_replay_shows_each_domain_in_a_row_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let budgets = "[[kl.budget]]\nid = \"a\"\ntarget = 2.0\n[[kl.budget]]\nid = \"all\"\ntarget = 6.0\n";
    std::fs::write(dir.path().join("kl.toml"), format!("[kl.adaptive]\ninit = 0.2\ntarget = 6.0\n{budgets}"))
        .unwrap();
    let domain = |id: &str, kl: f64| format!(r#"{{"id":"{id}","mean_kl":{kl},"var":1.0,"n":512}}"#);
    let user = "user:somebody-with-a-long-name";
    let log = [
        format!(
            r#"{{"step":1,"domains":[{},{},{}]}}"#,
            domain("all", 5.5),
            domain("a", 1.5),
            domain(user, 12345678.9)
        ),
        r#"{"step":1,"beta":{"a":0.111,"all":0.222},"verdict":"accept"}"#.to_owned(),
        r#"{"checkpoint":1}"#.to_owned(),
        format!(r#"{{"step":2,"domains":[{}]}}"#, domain("a", 3.0)),
        r#"{"rollback":1}"#.to_owned(),
        format!(r#"{{"step":3,"domains":[{}]}}"#, domain("a", 3.0)),
    ];
    std::fs::write(dir.path().join("log.jsonl"), log.join("\n")).unwrap();
    let out = tether(dir.path()).args(["kl", "replay", "log.jsonl", "--config", "kl.toml"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let row = |step: &str, id: &str| -> Vec<String> {
        let words = |l: &str| l.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let found = text.lines().map(words).find(|w| w.len() > 4 && w[0] == step && w[1] == id);
        found.unwrap_or_else(|| panic!("{step} {id}\n{text}"))
    };
    assert_eq!(row("1", "a")[2..4], ["1.5000", "0.11100"]);
    assert_eq!(row("1", "all")[2..4], ["5.5000", "0.22200"]);
    // Half of `init` each, lowered by 1 − 5.5/6 and by at most a fifth of 512/10000.
    assert_eq!((row("1", "a")[4].as_str(), row("1", "all")[4].as_str()), ("0.09898", "0.09957"));
    assert_eq!(row("1", "…a-long-name")[3..5], ["-", "-"], "no budget is on users");
    assert!(text.contains("went back to its checkpoint of step 1"), "{text}");
    assert_eq!(row("2", "a")[4], row("3", "a")[4], "from the same checkpoint");
    assert!(text.contains("sum over the ids"), "{text}");
    let broken = "{\"step\": 1, \"objective/kl\": 5.0}\n{\"step\": -4, \"objective/kl\": 5.0}\n";
    std::fs::write(dir.path().join("log.jsonl"), broken).unwrap();
    let out = tether(dir.path()).args(["kl", "replay", "log.jsonl", "--config", "kl.toml"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "bad input: {text}");
    assert!(text.contains("log.jsonl line 2") && text.contains("-4"), "{text}");
}

#[test]
fn the_same_intervention_again_takes_no_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kl.toml"), CONFIG).unwrap();
    let kl = |t: u64| if t < 20 || t == 30 { "5.0" } else { "NaN" };
    let log: String = (0..100).map(|t| format!("{{\"step\":{t},\"objective/kl\":{}}}\n", kl(t))).collect();
    std::fs::write(dir.path().join("log.jsonl"), log).unwrap();
    let args = ["kl", "replay", "log.jsonl", "--config", "kl.toml", "--rows", "2"];
    let out = tether(dir.path()).args(args).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let steps: Vec<_> =
        text.lines().filter_map(|l| l.split_whitespace().next()?.parse::<u64>().ok()).collect();
    // The first, the middle and the last by --rows; 20 and 31 because rejecting begins there.
    assert_eq!(steps, [0, 20, 31, 50, 99], "{text}");
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
