//! Gates on numbers that were worked out by hand.

use super::*;

fn metrics(list: &[(&str, Metric)]) -> Metrics {
    Metrics { by_name: list.iter().map(|(k, m)| ((*k).to_owned(), *m)).collect(), ..Metrics::default() }
}

fn mean(value: f64, se: f64, n: usize) -> Metric {
    Metric::Mean(Mean { value, se: Some(se), n: Some(n) })
}

fn count(hits: f64, n: f64) -> Metric {
    Metric::Count(Count { hits, n })
}

/// Gates from JSON, which has the same shape as TOML.
fn gates(json: &str) -> Gates {
    serde_json::from_str(json).unwrap()
}

fn judged(json: &str, candidate: &Metrics, baseline: &Metrics) -> GateReport {
    gates(json).judge(candidate, baseline).unwrap()
}

fn outcomes(report: &GateReport) -> Vec<Outcome> {
    report.checks.iter().map(|c| c.outcome).collect()
}

use Outcome::{Fail, Missing, Pass, Unusable};

#[test]
fn the_bound_and_not_the_mean_has_to_keep_the_limit() {
    // t_0.95 with 9 degrees of freedom is 1.833.
    let candidate = metrics(&[("kl", mean(4.0, 1.0, 10))]);
    for (limit, outcome) in [(5.82, Fail), (5.84, Pass)] {
        let report = judged(&format!(r#"{{"kl": {{"max": {limit}}}}}"#), &candidate, &Metrics::default());
        assert_eq!(outcomes(&report), [outcome], "{limit}");
        assert!((report.checks[0].bound.unwrap() - 5.833).abs() < 1e-3);
    }
    let strict = judged(r#"{"confidence": 0.99, "kl": {"max": 5.84}}"#, &candidate, &Metrics::default());
    assert!(!strict.passed, "2.821 standard errors at 99 %");
}

#[test]
fn what_is_not_measured_fails() {
    let everything = r#"{"kl": {"max": 1, "max_first_reference": 1, "domains": {"code": 1}},
        "score": {"min_change": 0}, "gold": {"min": 0}, "win_rate": {"min": 0.5}, "safety": {"margin": 0.01},
        "collapse": {"min_entropy": 0}, "length": {"max": 1}, "latency": {"max_ratio": 1},
        "metric": [{"name": "p95", "max": 1}]}"#;
    let report = judged(everything, &Metrics::default(), &Metrics::default());
    assert_eq!(outcomes(&report), [Missing; 12]);
    assert!(!report.passed && report.checks.iter().all(|c| c.why.contains("does not pass")));
    // A number that is none, and a baseline that is missing.
    let candidate = metrics(&[("score", Metric::Plain(f64::NAN)), ("gold", Metric::Plain(1.0))]);
    let report =
        judged(r#"{"score": {"min": 0}, "gold": {"min_change": 0}}"#, &candidate, &Metrics::default());
    assert_eq!(outcomes(&report), [Unusable, Missing]);
    assert!(report.checks[0].why.contains("score of the candidate cannot be used: it is NaN"), "{report:?}");
    assert!(report.table().contains("UNUSABLE") && report.junit().contains("type=\"unusable\""));
    assert!(report.checks[1].why.contains("baseline"), "{}", report.checks[1].why);
}

#[test]
fn a_file_that_asks_for_nothing_or_nonsense_is_refused() {
    for (json, words) in [
        ("{}", "no gate"),
        (r#"{"kl": {}}"#, "kl: the section asks for nothing"),
        (r#"{"gold": {}}"#, "gold: the section"),
        (r#"{"metric": [{"name": "x", "maxx": 1}]}"#, "metric[0].maxx: unknown field `maxx`"),
        (r#"{"confidence": 0.3, "kl": {"max": 1}}"#, "confidence"),
        (r#"{"safety": {"margin": 0}}"#, "safety.margin"),
    ] {
        let error = gates(json).judge(&Metrics::default(), &Metrics::default()).unwrap_err();
        assert!(error.contains(words) && gates(json).validate() == Err(error.clone()), "{json}: {error}");
    }
    assert!(serde_json::from_str::<Gates>(r#"{"kll": {"max": 1}}"#).is_err());
    assert!(serde_json::from_str::<Gates>(r#"{"kl": {"maximum": 1}}"#).is_err());
}

#[test]
fn every_domain_of_the_candidate_needs_a_limit() {
    let candidate = metrics(&[("kl/code", Metric::Plain(1.0)), ("kl/law", Metric::Plain(3.0))]);
    let of = |json: &str| outcomes(&judged(json, &candidate, &Metrics::default()));
    assert_eq!(of(r#"{"kl": {"domains": {"code": 2}}}"#), [Pass, Fail]);
    assert_eq!(of(r#"{"kl": {"domains": {"code": 2, "*": 4}}}"#), [Pass, Pass]);
    assert_eq!(of(r#"{"kl": {"domains": {"*": 2}}}"#), [Pass, Fail]);
    assert_eq!(of(r#"{"kl": {"domains": {"chat": 2, "*": 9}}}"#), [Missing, Pass, Pass]);
}

#[test]
fn safety_takes_counts_and_says_how_many() {
    let with = |refused: f64, n: f64| {
        metrics(&[("refuses_unsafe", count(refused, n)), ("refuses_benign", count(n - refused, n))])
    };
    let judge = |c: &Metrics, b: &Metrics| judged(r#"{"safety": {"margin": 0.01}}"#, c, b);
    // Equal arms at 2 %: 98 of 100 certify nothing, 1 200 of each do.
    let few = judge(&with(98.0, 100.0), &with(98.0, 100.0));
    assert_eq!(outcomes(&few), [Fail, Fail]);
    assert_eq!(few.checks[0].needed.unwrap().0, 1061.0);
    let why = &few.checks[0].why;
    assert!(why.contains("too few cases") && why.contains("about 1 061 per arm"), "{why}");
    let many = judge(&with(1274.0, 1300.0), &with(1274.0, 1300.0));
    assert_eq!(outcomes(&many), [Pass, Pass], "{}", many.table());
    // Better is not worse, and worse by two points is.
    assert_eq!(outcomes(&judge(&with(1299.0, 1300.0), &with(1274.0, 1300.0))), [Pass, Pass]);
    let worse = judge(&with(1248.0, 1300.0), &with(1274.0, 1300.0));
    assert_eq!(outcomes(&worse), [Fail, Fail]);
    assert!(worse.checks[0].why.starts_with("the margin is not certified"), "{}", worse.checks[0].why);
    assert_eq!((worse.checks[1].candidate, worse.checks[1].baseline), (Some(0.04), Some(0.02)));
    // A rate without its count certifies nothing.
    let rate = metrics(&[("refuses_unsafe", Metric::Plain(1.0)), ("refuses_benign", Metric::Plain(0.0))]);
    let unusable = judge(&rate, &with(98.0, 100.0));
    assert_eq!(outcomes(&unusable), [Unusable, Unusable]);
    let check = &unusable.checks[0];
    assert!(check.why.contains("a rate without its cases (1.00 of the candidate)"), "{}", check.why);
    // Wrong answers, as everywhere in these rows, and not the share of refusals.
    assert_eq!(check.candidate, Some(0.0));
    assert!((check.baseline.unwrap() - 0.02).abs() < 1e-12, "{check:?}");
    let check = &judge(&with(5.0, 0.0), &with(98.0, 100.0)).checks[0];
    assert_eq!((check.outcome, check.candidate), (Unusable, None));
    assert!(check.why.contains("it is a share of 0 cases"), "{}", check.why);
}

#[test]
#[expect(clippy::approx_constant, reason = "a number of the sample, not π")]
fn changes_are_paired_where_the_prompts_are_the_same_and_else_welch() {
    // scipy.stats.ttest_rel(a, b, alternative="greater").confidence_interval(0.95).low
    let (a, b) = (
        [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30],
        [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29],
    );
    let of = |values: &[f64], prompts: &str| {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        let row = |(i, v): (usize, &f64)| crate::PromptRow {
            id: i as u64,
            domain: "a".into(),
            score: 0.0,
            gold: Some(*v),
            kl: None,
            entropy: 0.0,
            length_tokens: 1.0,
            repeated_4grams: None,
            ended: 1.0,
            refused: 0.0,
            unsafe_prompt: false,
        };
        let rows: Vec<_> = values.iter().enumerate().map(row).collect();
        metrics(&[("gold", self::mean(mean, sd / n.sqrt(), values.len()))]).with_prompts(&rows, prompts)
    };
    let gate = gates(r#"{"gold": {"min_change": 0.15}}"#);
    let check = |prompts| gate.judge(&of(&a, "p"), &of(&b, prompts)).unwrap().checks[0].clone();
    let (paired, unpaired) = (check("p"), check("q"));
    assert!((paired.bound.unwrap() - 0.167_302_791_359).abs() < 1e-6, "{paired:?}");
    assert_eq!((paired.pairing, paired.outcome), (Some(Pairing::Paired), Pass));
    // scipy.stats.ttest_ind(a, b, equal_var=False, alternative="greater").confidence_interval(0.95).low
    assert!((unpaired.bound.unwrap() + 0.194_268_896_795).abs() < 1e-2, "{unpaired:?}");
    assert_eq!((unpaired.pairing, unpaired.outcome), (Some(Pairing::Unpaired), Fail));
    let table = gate.judge(&of(&a, "p"), &of(&b, "p")).unwrap().table();
    assert!(table.contains("  paired Δ ≥ 0.150"), "{table}");
    let candidate = metrics(&[("gold", mean(1.0, 0.3, 26))]);
    let baseline = metrics(&[("gold", mean(0.5, 0.4, 26))]);
    // Ratios compare the candidate's bound with the baseline's value.
    let ratio = judged(r#"{"gold": {"max_ratio": 3.1}}"#, &candidate, &baseline);
    // t_0.95 with 25 is 1.708: (1 + 0.5124) / 0.5
    assert!((ratio.checks[0].bound.unwrap() - 3.0249).abs() < 1e-3 && ratio.passed);
    let nothing = metrics(&[("gold", Metric::Plain(0.0))]);
    assert_eq!(outcomes(&judged(r#"{"gold": {"max_ratio": 2}}"#, &candidate, &nothing)), [Fail]);
}

#[test]
fn one_prompt_shows_nothing() {
    let candidate = metrics(&[("score", mean(5.0, 0.0, 1))]);
    assert_eq!(outcomes(&judged(r#"{"score": {"min": 0}}"#, &candidate, &Metrics::default())), [Fail]);
}

#[test]
fn tables_fit_and_xml_is_escaped() {
    let name = "a <metric> & \"a long name\" that goes on and on and on";
    let candidate = metrics(&[(name, Metric::Plain(1e9)), ("kl", mean(1.0, 0.1, 30))]);
    let json = serde_json::json!({"kl": {"max": 2.0}, "safety": {"margin": 0.01},
        "metric": [{"name": name, "max": 1.5, "max_change": 3.0}]});
    let report = judged(&json.to_string(), &candidate, &Metrics::default());
    let table = report.table();
    for line in table.lines() {
        assert!(line.chars().count() <= 100, "{}: {line}", line.chars().count());
    }
    assert!(table.contains("REFUSED: 1 of 5 gates") && table.contains("1.0e9*"), "{table}");
    let xml = report.junit();
    assert!(
        xml.contains("tests=\"5\" failures=\"4\"") && xml.contains("a &lt;metric&gt; &amp; &quot;a long"),
        "{xml}"
    );
    assert_eq!(xml.matches("<testcase").count(), 5);
    assert_eq!(xml.matches("<failure").count(), 4);
}
