//! `tether compare` and `tether sweep` on a tiny model.
#![expect(clippy::unwrap_used, reason = "tests: a panic is the report")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tetherline::compare::{CompareOptions, Judge, Metric, ab_page, compare};
use tetherline::sweep::{SweepOptions, parse_axis, sweep};
use tetherline::{Error, Recipe, RunOptions, Stages, run};
use tetherline_core::{Event, Observer, Silent, Stage};
use tetherline_eval::ab::Verdict;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/tiny-llama");

fn sets(dir: &Path, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let words = ["boat", "rope", "tide", "lamp", "order", "bread", "shore", "clerk"];
    let text = (0..128).fold(String::new(), |mut text, i| {
        writeln!(text, r#"{{"prompt": "the {} and the {} {i}"}}"#, words[i % 8], words[(i / 8 + 3 * i) % 8])
            .unwrap();
        text
    });
    std::fs::write(dir.join("prompts.jsonl"), text).unwrap();
    std::fs::write(dir.join("empty.toml"), "").unwrap();
    let prompts = dir.join("prompts.jsonl").display().to_string();
    let plain = [
        ("model.policy", MODEL),
        ("data.prompts", &prompts),
        ("seed", "3"),
        ("reward.model_weight", "0.0"),
        ("reward.rule", "[{ keyword = { words = ['e', 'o'], cap = 5 } }]"),
        ("sampling.max_new_tokens", "8"),
        ("ppo.steps", "3"),
        ("ppo.batch_size", "8"),
        ("ppo.epochs", "2"),
        ("ppo.lr", "1e-3"),
        ("ppo.missing_eos_penalty", "none"),
        ("kl", "{ fixed = { init = 0.01 } }"),
        ("eval.prompts", "16"),
    ];
    let plain = plain.iter().filter(|(key, _)| more.iter().all(|(k, _)| k != key));
    plain.chain(more).map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

fn source(dir: &Path) -> String {
    dir.join("empty.toml").display().to_string()
}

fn trained(dir: &Path, name: &str, more: &[(&str, &str)]) -> String {
    let out = dir.join(name);
    let sets = sets(dir, more);
    let recipe = Recipe::load(&source(dir), &sets).unwrap();
    let options = RunOptions {
        out: out.clone(),
        resume: false,
        after_halt: false,
        stages: Stages::All,
        threads: 1,
        clock: || 0.0,
    };
    run(&recipe, &options, &mut Silent).unwrap();
    out.display().to_string()
}

fn options(policies: &[&str]) -> CompareOptions {
    CompareOptions {
        policies: policies.iter().map(|p| (*p).to_owned()).collect(),
        recipe: None,
        judge: Judge::Score,
        prompts: 0,
        samples: 4,
        alpha: 0.05,
        decide_on: Metric::WinRate,
        all: false,
        threads: 1,
    }
}

#[test]
fn a_policy_ties_with_itself_and_beats_a_worse_one() {
    let dir = tempfile::tempdir().unwrap();
    let weak = trained(dir.path(), "weak", &[]);
    // Paid for what the others are charged for, in the reward that all are compared by.
    let shy = "[{ keyword = { words = ['e', 'o'], cap = 5, weight = -1.0 } }]";
    let more = [("reward.rule", shy), ("ppo.steps", "60"), ("kl", "{ fixed = { init = 0.0 } }")];
    let shy = trained(dir.path(), "shy", &more);
    let same = compare(&options(&[&weak, &format!("{weak}/policy")]), &mut Silent).unwrap();
    let tested = &same.candidates[0].tested;
    assert_eq!((same.prompts, same.available, tested.len()), (128, 128, 2));
    assert!(
        tested.iter().all(|t| t.mean == t.metric.null() && t.verdict == Verdict::Undecided && t.p == 1.0),
        "{tested:?}"
    );

    let many = CompareOptions { samples: 16, all: true, ..options(&[&weak, &shy, MODEL]) };
    let result = compare(&many, &mut Silent).unwrap();
    let verdicts: Vec<_> = result.candidates.iter().map(|c| c.tested[1].verdict).collect();
    assert_eq!(verdicts[0], Verdict::Worse, "{}", result.table());
    assert!(result.baseline.ends_with("weak") && result.candidates[0].name.ends_with("shy"));
    // The KL of the base itself is none, so the difference is minus the baseline's.
    let kl = result.candidates[1].described.iter().find(|d| d.name.starts_with("KL")).unwrap();
    assert!(kl.value < 0.0, "{kl:?}");
    let page = ab_page("test", &result);
    assert!(page.contains("shy is worse than ") && page.contains("<svg"), "{page}");

    // A program as the judge: the longer answer wins; in both orders, so its favour for the first evens out.
    let script = "import sys,json\nfor l in sys.stdin:\n r=json.loads(l)\n print(0.0)";
    let judge = Judge::Command(["python3", "-c", script].map(String::from).to_vec());
    if let Ok(result) = compare(&CompareOptions { judge, all: true, ..options(&[&weak, &shy]) }, &mut Silent)
    {
        assert_eq!(result.candidates[0].tested[0].mean, 0.5, "always for `a`, whoever that is");
    }
}

#[test]
fn what_cannot_be_compared_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let error = |o: &CompareOptions| compare(o, &mut Silent).unwrap_err().to_string();
    assert!(error(&options(&[MODEL, MODEL])).contains("--recipe"));
    assert!(error(&options(&[MODEL])).contains("two or more"));
    let recipe = Recipe::load(
        &{
            drop(sets(dir.path(), &[]));
            source(dir.path())
        },
        &sets(dir.path(), &[]),
    )
    .unwrap();
    let with = CompareOptions { recipe: Some(recipe), ..options(&[MODEL, MODEL]) };
    let part = CompareOptions { judge: Judge::parse("score/rule.tone"), ..with.clone() };
    assert!(error(&part).contains("score/rule.keyword"), "{}", error(&part));
    assert!(error(&CompareOptions { judge: Judge::Gold, ..with }).contains("gold"));
}

fn swept(
    dir: &Path,
    out: PathBuf,
    resume: bool,
    observer: &mut dyn Observer,
) -> Result<tetherline::sweep::SweepSummary, Error> {
    let grid = [parse_axis("kl.init=0.01,1.0").unwrap()];
    let options = SweepOptions { out, resume, seeds: 2, jobs: 2, threads: 2, clock: || 0.0 };
    sweep(&source(dir), &sets(dir, &[]), &grid, &options, observer)
}

/// Asks to stop once PPO is under way.
struct Impatient(bool);

impl Observer for Impatient {
    fn on_event(&mut self, event: &Event<'_>) {
        self.0 |= matches!(event, Event::Step { stage: Stage::Ppo, step, .. } if *step >= 2);
    }

    fn stop_requested(&self) -> bool {
        self.0
    }
}

#[test]
fn a_sweep_that_was_interrupted_ends_like_one_that_was_not() {
    let dir = tempfile::tempdir().unwrap();
    drop(sets(dir.path(), &[]));
    let straight = swept(dir.path(), dir.path().join("straight"), false, &mut Silent).unwrap();
    let names: Vec<_> = straight.frontier.regimes.iter().map(|r| (r.name.as_str(), r.runs)).collect();
    assert_eq!(names, [("before PPO", 2), ("kl.fixed.init=0.01", 2), ("kl.fixed.init=1.0", 2)]);
    // The policy before PPO is its own reference.
    assert!(straight.frontier.regimes[0].kl.unwrap().mean.abs() < 1e-9);
    let page = std::fs::read_to_string(&straight.report).unwrap();
    assert!(page.contains("<svg") && page.contains("kl.fixed.init=1.0"), "{page}");

    let out = dir.path().join("stopped");
    let stopped = swept(dir.path(), out.clone(), false, &mut Impatient(false));
    assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{stopped:?}");
    let refused = swept(dir.path(), out.clone(), false, &mut Silent).unwrap_err().to_string();
    assert!(refused.contains("--resume"), "{refused}");
    assert_eq!(swept(dir.path(), out, true, &mut Silent).unwrap().frontier, straight.frontier);
}

#[test]
fn a_grid_that_makes_no_recipe_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("sweep");
    let grid = [parse_axis("ppo.lr=1e-3,fast").unwrap()];
    let options =
        SweepOptions { out: out.clone(), seeds: 1, jobs: 1, threads: 1, resume: false, clock: || 0.0 };
    let error = sweep(&source(dir.path()), &sets(dir.path(), &[]), &grid, &options, &mut Silent);
    assert!(error.unwrap_err().to_string().contains("ppo.lr=fast"));
    assert!(!out.exists(), "the mended command has to be able to begin there");
}

#[test]
fn a_run_that_is_halted_is_named_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let more = [("allow_faults", "true"), ("fault", "[{ at = 2, what = 'nan_score' }]"), ("ppo.steps", "3")];
    let sets = sets(dir.path(), &more);
    // A guard refuses the broken batch and goes on; without one the run ends.
    let laws = "kl={ fixed = { init = 0.1 } },{ adaptive = { init = 0.1, target = 0.4 }, guard = {} }";
    let grid = [parse_axis(laws).unwrap()];
    let out = dir.path().join("sweep");
    let options = SweepOptions { out, resume: false, seeds: 1, jobs: 1, threads: 1, clock: || 0.0 };
    let summary = sweep(&source(dir.path()), &sets, &grid, &options, &mut Silent).unwrap();
    let regimes = &summary.frontier.regimes;
    assert_eq!(regimes.iter().map(|r| r.runs).collect::<Vec<_>>(), [1, 0, 1]);
    assert!(regimes[1].failures[0].contains("NaN"), "{:?}", regimes[1].failures);
}
