use super::*;
use crate::{Comparison, ResponseRecord};
use std::collections::BTreeMap;
use tetherline_core::Metrics;

fn records(gold: f64, score: f64) -> Vec<ResponseRecord> {
    (0..60u32)
        .map(|i| ResponseRecord {
            prompt_id: u64::from(i),
            domain: if i % 2 == 0 { "a" } else { "b" }.into(),
            prompt: "<script>alert(1)</script>".into(),
            response: "\"quoted\" & <b>bold</b>".into(),
            tokens: (0..8).collect(),
            score: f64::from(i % 5) + score,
            gold: Some(f64::from(i % 7) + gold + 0.1 * f64::from(i % 2)),
            kl_exact: Some(8.0 * score),
            unsafe_prompt: i % 6 == 0,
            refused: i % 6 == 0 && score > 0.0,
            ..Default::default()
        })
        .collect()
}

fn metrics(step: u32, pairs: &[(&str, f64)]) -> Metrics {
    let mut m: Metrics = pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
    m.insert("step".into(), f64::from(step));
    m
}

fn data(gold: f64) -> ReportData {
    let (b, a) = (records(0.0, 0.0), records(gold, 1.0));
    ReportData {
        title: "<script>title</script>".into(),
        run_name: "run".into(),
        kl_target: Some(10.0),
        samples: sample_pairs(&b, &a, 3),
        comparison: Some(Comparison::paired(&b, &a, 1).unwrap()),
        series: (1..=40)
            .map(|t| {
                let x = f64::from(t);
                metrics(
                    t,
                    &[
                        ("objective/kl", x / 5.0),
                        ("objective/kl_stderr", 0.1),
                        ("objective/scores", x),
                        ("eval/gold", gold * x / 40.0),
                        ("domain/a/kl", x / 4.0),
                        ("domain/<i>/kl", x),
                    ],
                )
            })
            .collect(),
        control: vec![
            serde_json::json!({"step": 1, "domains": []}),
            serde_json::json!({"step": 1, "verdict": "accept", "beta": {"all": 0.1}, "reason": {"code": "law", "text": "fine"}}),
            serde_json::json!({"step": 2, "verdict": "rollback", "beta": {"all": 0.1}, "reason": {"text": "<img src=x>"}}),
        ],
        recipe: "a = \"</pre><script>\"".into(),
        ..Default::default()
    }
}

#[test]
fn text_from_outside_never_becomes_markup() {
    let html = render(&data(1.0));
    assert!(!html.contains("<script"), "a script element got through");
    assert!(!html.contains("<img") && !html.contains("<b>bold"));
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(html.contains("&quot;quoted&quot; &amp; &lt;b&gt;bold&lt;/b&gt;"));
    assert!(html.contains("&lt;img src=x&gt;"));
}

#[test]
fn self_contained_and_well_formed() {
    for data in [data(1.0), ReportData::default()] {
        let html = render(&data);
        for outside in ["http:", "https:", "src=", "@import", "url(", "<link"] {
            let escaped_sample = html.replace("src=x", "");
            assert!(!escaped_sample.contains(outside), "{outside}");
        }
        assert!(!html.contains("NaN") && !html.contains("inf"), "a number that is none");
        balanced(&html);
    }
}

/// Every element is closed in order.
fn balanced(html: &str) {
    let void = ["meta", "!doctype"];
    let mut open: Vec<String> = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("an unclosed tag");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        let name = tag.split([' ', '/']).find(|s| !s.is_empty()).unwrap_or_default().to_owned();
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name.as_str()), "near {:?}", &rest[..rest.len().min(80)]);
        } else if !tag.ends_with('/') && !void.contains(&name.as_str()) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn every_verdict_stands_in_the_report_with_what_it_was_made_on() {
    let seen = |step: u64, more: serde_json::Value, kl: f64| {
        let domains = serde_json::json!([{"id": "<a>", "mean_kl": kl, "var": 0.16, "n": 16}]);
        let mut line = serde_json::json!({"step": step, "phase": "rollout", "domains": domains});
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        line
    };
    let decided = |step: u64, verdict: &str, text: &str| serde_json::json!({"step": step, "verdict": verdict, "beta": {"all": 0.1}, "reason": {"text": text}});
    let trial = |n: u64| serde_json::json!({"phase": "trial", "trial": n});
    let control = vec![
        seen(1, serde_json::json!({}), 1.25),
        decided(1, "accept", "the law says so"),
        seen(1, trial(0), 2.5),
        decided(1, "scale", "above its cap"),
        seen(1, trial(1), 1.75),
        decided(1, "accept", "below its cap"),
        decided(1, "domain_absent", "nobody asks any more"),
    ];
    let html = render(&ReportData { control, ..data(1.0) });
    balanced(&html);
    assert!(html.contains("All 4 verdicts"), "{html}");
    for row in [
        "<td>rollout</td><td>accept</td><td>&lt;a&gt; 1.25 ± 0.100</td>",
        "<td>trial 0</td><td>scale</td><td>&lt;a&gt; 2.50 ± 0.100</td>",
        "<td>trial 1</td><td>accept</td><td>&lt;a&gt; 1.75 ± 0.100</td>",
        "<td></td><td>domain_absent</td><td></td>",
    ] {
        assert!(html.contains(row), "{row}");
    }
    // All trials of an update are one intervention, as a row and as a mark.
    assert!(html.contains("<td>scale, then accept</td><td>2</td><td>1.00 → 1.00</td><td></td>"), "{html}");
    // A long run's table has an end.
    let long = (1..=5000).flat_map(|t| [seen(t, serde_json::json!({}), 1.0), decided(t, "accept", "fine")]);
    let html = render(&ReportData { control: long.collect(), ..ReportData::default() });
    assert!(html.contains("The last 400 of 5000 verdicts") && html.len() < 150_000, "{}", html.len());
}

#[test]
fn trials_of_one_update_are_one_row_with_the_shares_that_were_tried() {
    let line = |step: u64, trial: Option<u64>, verdict: &str, scale: f64, text: &str| {
        let domains = serde_json::json!([{"id": "a", "mean_kl": 1.0, "var": 0.1, "n": 9}]);
        let phase = if trial.is_some() { "trial" } else { "rollout" };
        [
            serde_json::json!({"step": step, "phase": phase, "trial": trial, "domains": domains}),
            serde_json::json!({"step": step, "verdict": verdict, "scale": scale,
                "beta": {"a": 0.1, "b": 0.1}, "reason": {"text": text}}),
        ]
    };
    let mut control = Vec::new();
    for step in 1..=3 {
        control.extend(line(step, None, "accept", 1.0, "the law"));
    }
    control.extend(line(3, Some(0), "scale", 0.4, "first"));
    control.extend(line(3, Some(1), "scale", 0.2, "second"));
    control.extend(line(3, Some(2), "accept", 0.2, "inside"));
    control.extend(line(4, None, "throttle", 1.0, "too fast"));
    for trial in 0..8 {
        control.extend(line(4, Some(trial), "scale", 0.5_f64.powi(trial as i32 + 1), "above"));
    }
    control.extend(line(4, Some(8), "reject", 1.0, "used up"));
    control.extend(line(5, Some(0), "accept", 1.0, "inside"));
    let html = render(&ReportData { control, ..ReportData::default() });
    balanced(&html);
    let table = html.split("<details>").next().unwrap();
    for row in [
        "<tr><th scope=\"row\">3</th><td>scale, then accept</td><td>3</td><td>1.00 → 0.400 → 0.200</td><td></td>\
         <td><span class=\"why\">first</span></td></tr>",
        // β of all is one number.
        "<tr><th scope=\"row\">4</th><td>throttle</td><td></td><td></td><td>0.100</td>",
        "<td>scale, then reject</td><td>9</td><td>1.00 → 0.500 → 0.250 → … → 0.0039</td><td></td>\
         <td><span class=\"why\">above; in the end: used up</span></td></tr>",
    ] {
        assert!(table.contains(row), "{row}\n{table}");
    }
    assert_eq!(table.matches("<tr>").count(), 4, "a head and three rows: {table}");
}

#[test]
fn a_halted_run_says_so_first() {
    let halted = Some((7, "five in a row were <broken>".to_owned()));
    let html = render(&ReportData { halted, ..data(1.0) });
    assert!(html.contains("<h1>HALTED at step 7</h1>"), "{html}");
    assert!(html.contains("The run stopped itself: five in a row were &lt;broken&gt;."));
    balanced(&html);
}

#[test]
fn a_run_that_ended_on_a_number_that_is_not_finite_says_so_first() {
    let of = |checkpoint: Option<&str>| {
        let not_finite = Some(super::NotFinite {
            stage: "ppo".into(),
            step: 7,
            what: "the gradient norm is <NaN>".into(),
            checkpoint: checkpoint.map(str::to_owned),
        });
        render(&ReportData { not_finite, ..data(1.0) })
    };
    let html = of(Some("checkpoints/step-000006"));
    assert!(html.contains("<h1>NOT FINITE: stopped at step 7 of ppo</h1>"), "{html}");
    assert!(html.contains("The run stopped itself: the gradient norm is &lt;NaN&gt;."), "{html}");
    assert!(html.contains("The last good checkpoint is checkpoints/step-000006."), "{html}");
    balanced(&html);
    assert!(of(None).contains("No checkpoint had been saved yet."));
}

#[test]
fn what_is_missing_is_said() {
    let html = render(&ReportData::default());
    for line in [
        "Nothing was trained",
        "not evaluated on held-out prompts",
        "No PPO steps were logged",
        "No per-domain metrics",
        "needs a gold score",
        "No control decisions",
        "No samples were kept",
        "No reward model was trained",
        "No supervised stage",
        "recipe was not given",
    ] {
        assert!(html.contains(line), "{line}");
    }
    assert!(!html.contains("<svg"));
    let some = render(&data(1.0));
    assert!(some.contains("Not logged in this run: KL coefficient β, Entropy, Response length."), "{some}");
}

#[test]
fn the_headline_follows_the_numbers() {
    let text = |gold| {
        let h = headline::headline(&data(gold));
        format!("{} | {}", h.title, h.sentences.join(" "))
    };
    let up = text(1.0);
    assert!(up.starts_with("Gold score up by") && up.contains("8.0 nats from the reference"), "{up}");
    assert!(up.contains("20.0 % below its target of 10"), "{up}");
    assert!(up.contains("refuses 100 % of unsafe prompts (before 0 %)"), "{up}");
    assert!(!up.contains("exploited"), "{up}");
    let down = text(-1.0);
    assert!(down.starts_with("Gold score down by") && down.contains("proxy rose while gold fell"), "{down}");
    assert!(text(0.0).starts_with("No clear change in gold score"), "{}", text(0.0));
}

#[test]
fn gold_below_its_peak_is_named() {
    let mut d = data(1.0);
    for (i, m) in d.series.iter_mut().enumerate() {
        let x = i as f64;
        m.insert("eval/gold".into(), if x < 20.0 { x } else { 40.0 - x });
    }
    let h = headline::headline(&d);
    assert!(
        h.sentences.iter().any(|s| s.contains("peaked near step 2") && s.contains("overoptimisation")),
        "{:?}",
        h.sentences
    );
}

#[test]
fn charts_show_target_band_and_marks() {
    let mut d = data(1.0);
    for m in &mut d.series {
        m.insert("objective/kl_coef".into(), 0.1);
    }
    let html = render(&d);
    assert!(html.contains("class=\"target\"") && html.contains(">target 10.0<"), "target line");
    assert!(html.contains("class=\"band c1\""), "stderr band");
    assert!(html.contains("aria-label=\"KL to the reference, nats per sequence, 95 % band of k1; k1 0.200 at PPO step 1 to 8.00 at PPO step 40; target 10.0\""));
    assert!(html.contains("<title>step 2: rollback. &lt;img src=x&gt;</title>"), "mark of a decision");
}

#[test]
fn gaps_and_wild_values_do_not_break_a_chart() {
    let mut d = data(1.0);
    for (i, m) in d.series.iter_mut().enumerate() {
        if i % 3 == 0 {
            m.insert("objective/scores".into(), f64::NAN);
        }
        m.insert("objective/kl_coef".into(), 0.0);
        m.insert("policy/entropy_avg".into(), f64::INFINITY);
    }
    let html = render(&d);
    assert!(!html.contains("NaN") && !html.contains("inf"));
    balanced(&html);
}

#[test]
fn a_long_run_stays_a_small_file() {
    let series = (1..=20_000).map(|t| metrics(t, &[("objective/scores", f64::from(t % 97))])).collect();
    let html = render(&ReportData { series, domain_targets: BTreeMap::new(), ..Default::default() });
    assert!(html.len() < 150_000, "{} bytes", html.len());
}

#[test]
fn sample_pairs_take_turns_between_domains() {
    let pairs = sample_pairs(&records(0.0, 0.0), &records(1.0, 1.0), 2);
    let domains: Vec<&str> = pairs.iter().map(|p| p.domain.as_str()).collect();
    assert_eq!(domains, ["a", "b", "a", "b"]);
}
