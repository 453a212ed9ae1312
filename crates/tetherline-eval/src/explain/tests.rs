use super::*;
use crate::regression::least_squares;

fn explanation(name: &str) -> Explanation {
    let update = |update: u64, nats: f64| Update {
        contribution: Contribution { update, nats, stderr: Some(0.1), measured: false, stood: nats != 0.0 },
        beta: Some(0.2),
        lr: Some(1e-5),
        score: Some(1.0),
        verdicts: vec![name.to_owned()],
        over_budget: vec![name.to_owned()],
    };
    let x: Vec<f64> = (0..20).map(f64::from).collect();
    let y: Vec<f64> = x.iter().map(|x| 2.0 * x + (x * 7.0).sin()).collect();
    Explanation {
        schema: SCHEMA,
        run: name.to_owned(),
        from: 0,
        to: 3,
        compared: name.to_owned(),
        updates: Updates {
            kl_nats_before: 0.0,
            kl_nats_after: 1.5,
            anchors: vec![SourcedAnchor {
                anchor: Anchor { after: 0, kl_nats: 0.0 },
                source: "start".into(),
            }],
            each: vec![update(1, 1.0), update(2, 0.0), update(3, 0.5)],
            logged: vec![(0, 0.0), (1, 0.9), (2, 1.1)],
        },
        reward: Some(RewardFit {
            pooled: least_squares(&y, &[(name.to_owned(), x)], None),
            length_r_squared: Some(0.25),
            inverse_beta: Some(5.0),
            ..RewardFit::default()
        }),
        decisions: Decisions {
            law: name.to_owned(),
            target_nats: Some(3.0),
            betas: BTreeMap::from([(
                name.to_owned(),
                BetaRange { first: 0.1, last: 0.2, least: 0.1, largest: 0.2 },
            )]),
            budgets: vec![BudgetInForce {
                id: name.to_owned(),
                target_nats: 2.0,
                metrics: vec![name.to_owned()],
            }],
            verdicts: BTreeMap::from([(name.to_owned(), 3)]),
            lines: vec![DecisionLine {
                step: 2,
                phase: "trial".into(),
                what: name.to_owned(),
                text: name.to_owned(),
                kl_nats: Some(1.0),
                ..DecisionLine::default()
            }],
        },
        moves: vec![Move { key: name.to_owned(), before: 1.0, after: 1e-9 }],
        notes: vec![name.to_owned()],
        ..Explanation::default()
    }
}

#[test]
fn hostile_names_are_inert_and_lines_fit() {
    let evil = "<script>alert(1)</script>\u{1b}[2J\u{202e}\u{9b}31m\"'><img src=x>\n".repeat(3);
    let e = explanation(&evil);
    let html = e.html();
    assert!(!html.contains("<script") && !html.contains("<img"));
    let text = e.text(TextStyle { colour: true, rows: 10, pairs: 2 });
    for out in [&html, &text] {
        assert!(!out.contains(['\u{1b}', '\u{202e}', '\u{9b}']));
    }
    for line in text.lines() {
        let note = line.starts_with("note: ") || line.starts_with(&crate::drift::one_line(&evil));
        assert!(note || line.chars().count() <= 100, "{line}");
    }
}

#[test]
fn the_tables_say_what_was_contributed() {
    let e = explanation("x");
    let text = e.text(TextStyle { colour: false, rows: 2, pairs: 0 });
    assert!(text.contains("sum of all 3: +1.500 of +1.500 nats per sequence"), "{text}");
    assert!(text.contains("+1.000 ± 0.100") && text.contains("66.7%"), "{text}");
    assert!(text.contains("1 more: 0.000 together"), "{text}");
    assert!(text.contains("R² 0.99") && text.contains("1/β = 5.00"), "{text}");
    let json = serde_json::to_string(&e).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), e);
    assert!(json.contains(r#""update":1,"nats":1.0"#), "{json}");
}

#[test]
fn metrics_move_from_their_first_to_their_last_tenth() {
    let series: Vec<BTreeMap<String, f64>> = (0..20)
        .map(|i| {
            let mut m =
                BTreeMap::from([("objective/scores".to_owned(), f64::from(i)), ("lr".to_owned(), 1.0)]);
            if i == 0 {
                m.insert("objective/once".to_owned(), 1.0);
            }
            m
        })
        .collect();
    let found = moves(&series, |k| k.starts_with("objective/"));
    assert_eq!(found, [Move { key: "objective/scores".into(), before: 0.5, after: 18.5 }]);
    assert!(moves(&[], |_| true).is_empty());
}

#[test]
fn verdicts_that_repeat_are_told_once() {
    let of = |list: &[&str]| folded(&list.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>());
    assert_eq!(
        of(&["throttle", "trial: scale", "trial: scale", "trial: reject"]),
        "throttle, trial: scale ×2, trial: reject"
    );
    assert_eq!(of(&[]), "");
}

#[test]
fn one_update_has_no_first_and_last_tenth() {
    let row = |x: f64| BTreeMap::from([("objective/scores".to_owned(), x)]);
    assert_eq!(moves(&[row(1.0)], |_| true), []);
    assert_eq!(moves(&[row(1.0), row(3.0)], |_| true)[0].after, 3.0);
    let mut e = explanation("run");
    assert!(e.html().contains("First tenth"));
    (e.from, e.moves) = (2, Vec::new());
    assert!(!e.html().contains("How the metrics moved") && !e.html().contains("No metrics were logged"));
}
