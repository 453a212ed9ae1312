use super::*;

fn response(id: u64, domain: &str, user: &str, words: &[(&str, f64)]) -> Response {
    let n = words.len();
    Response {
        prompt_id: id,
        domain: domain.into(),
        user: user.into(),
        prompt: format!("prompt {id}"),
        text: words.iter().map(|w| w.0).collect(),
        tokens: words.iter().map(|w| w.0.len() as u32).collect(),
        pieces: words.iter().map(|w| w.0.to_owned()).collect(),
        kl: words.iter().map(|w| w.1).collect(),
        log_ratio: vec![0.5; n],
        ..Response::default()
    }
}

fn input(responses: Vec<Response>, reference_responses: Vec<Response>) -> DriftInput {
    DriftInput {
        policy: "p".into(),
        reference: "r".into(),
        temperature: 1.0,
        responses,
        reference_responses,
        seed: 1,
        pairs: 6,
        ..DriftInput::default()
    }
}

#[test]
fn shares_are_those_counted_by_hand_and_sum_to_one() {
    let rows = vec![
        response(0, "care", "ann", &[("a", 1.0), ("bb", 2.0), ("a", 0.0)]),
        response(1, "desk", "bob", &[("a", 0.5), ("ccc", 0.5)]),
        response(2, "care", "", &[("a", 4.0)]),
    ];
    let d = Drift::of(&input(rows, vec![])).unwrap();
    assert!((d.kl_nats_per_sequence.mean - 8.0 / 3.0).abs() < 1e-12);
    assert!((d.kl_nats_per_token.mean - 8.0 / 6.0).abs() < 1e-12);
    assert!((d.log_ratio_nats_per_sequence.mean - 1.0).abs() < 1e-12);
    let of = |parts: &[Part]| -> Vec<(String, f64, usize, usize)> {
        parts.iter().map(|p| (p.name.clone(), p.share, p.responses, p.tokens)).collect()
    };
    let s = &d.shares;
    assert_eq!(of(&s.domains), [("care".into(), 7.0 / 8.0, 2, 4), ("desk".into(), 1.0 / 8.0, 1, 2)]);
    assert_eq!(of(&s.users)[0], (String::new(), 0.5, 1, 1));
    assert_eq!(s.prompts.iter().map(|p| p.id).collect::<Vec<_>>(), [Some(2), Some(0), Some(1)]);
    assert_eq!(
        of(&s.positions),
        [("1".into(), 5.5 / 8.0, 3, 3), ("2".into(), 2.5 / 8.0, 2, 2), ("3".into(), 0.0, 1, 1)]
    );
    assert_eq!(of(&s.tokens)[0], ("a".into(), 5.5 / 8.0, 3, 4));
    assert_eq!(s.domains[0].kl_nats_per_sequence, 3.5);
    assert_eq!(s.domains[0].kl_nats_per_token, 7.0 / 4.0);
    for parts in [&s.domains, &s.users, &s.prompts, &s.positions, &s.tokens] {
        assert!((parts.iter().map(|p| p.share).sum::<f64>() - 1.0).abs() < 1e-12);
    }
    let json = serde_json::to_string(&d).unwrap();
    assert_eq!(serde_json::from_str::<Drift>(&json).unwrap(), d);
}

#[test]
fn no_drift_has_no_shares() {
    let d = Drift::of(&input(vec![response(0, "all", "", &[("a", 0.0)])], vec![])).unwrap();
    assert_eq!((d.kl_nats_per_sequence.mean, d.shares.domains[0].share), (0.0, 0.0));
    assert!(d.text(TextStyle { rows: 5, pairs: 2, colour: false }).contains("0.00"));
}

#[test]
fn what_cannot_be_measured_is_named() {
    assert_eq!(Drift::of(&input(vec![], vec![])), Err(EvalError::NoRecords));
    let mut bad = response(7, "all", "", &[("a", 1.0)]);
    bad.kl[0] = f64::NAN;
    let text = Drift::of(&input(vec![bad], vec![])).unwrap_err().to_string();
    assert!(text.contains("`kl`") && text.contains("prompt 7"), "{text}");
    let short = Response { kl: vec![], ..response(8, "all", "", &[("a", 1.0)]) };
    assert_eq!(Drift::of(&input(vec![short], vec![])), Err(EvalError::Lengths { row: 0, prompt_id: 8 }));
}

#[test]
fn bytes_of_one_character_are_shown_as_one_token() {
    let mut r = response(0, "all", "", &[("", 0.5), ("é", 0.25), ("x", 0.125), ("", 1.0)]);
    r.tokens = vec![1, 2, 3, 4];
    let d = Drift::of(&input(vec![r], vec![])).unwrap();
    let shown: Vec<_> = d.pairs[0].policy.tokens.iter().map(|t| (t.text.as_str(), t.kl_nats)).collect();
    assert_eq!(shown, [("é", 0.75), ("x", 0.125), ("", 1.0)]);
    assert_eq!(d.pairs[0].policy.kl_nats, 1.875);
}

/// Text of a model or a user cannot become markup, a script, or a command to the terminal.
#[test]
fn hostile_text_is_inert_everywhere() {
    let evil = "<script>alert(1)</script>\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}'\"><img src=x onerror=alert(2)>";
    let rows = |n: f64| -> Vec<Response> {
        (0..12)
            .map(|i| Response {
                prompt: evil.into(),
                ..response(i, evil, evil, &[(evil, n), (" ", 0.1), (evil, 3.0)])
            })
            .collect()
    };
    let quiet: Vec<_> = (0..12).map(|i| response(i, evil, evil, &[("fine", 0.0)])).collect();
    let d = Drift::of(&DriftInput { policy: evil.into(), reference: evil.into(), ..input(rows(2.0), quiet) })
        .unwrap();
    assert!(!d.phrase_changes.as_ref().unwrap().gained.is_empty() && !d.pairs.is_empty());
    let html = d.html();
    assert!(!html.contains("<script") && !html.contains("<img"), "markup");
    for text in [html, d.text(TextStyle { colour: false, rows: 20, pairs: 6 })] {
        for c in ['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}'] {
            assert!(!text.contains(c), "{c:?}");
        }
    }
    // With colours the only escape sequences are ours.
    let coloured = d.text(TextStyle { colour: true, rows: 20, pairs: 6 });
    assert!(coloured.contains('\u{1b}'));
    for rest in coloured.split('\u{1b}').skip(1) {
        assert!(rest.starts_with("[0m") || rest.starts_with("[48;5;"), "{:?}", &rest[..8.min(rest.len())]);
    }
}

#[test]
fn lines_fit_the_terminal() {
    let long = "a very long name of a domain or of a user that somebody chose without thinking of us 日本語"
        .repeat(2);
    let rows: Vec<_> =
        (0..9).map(|i| response(i, &format!("{i}{long}"), &long, &[(&long, 1e6), (" b", 1e-9)])).collect();
    let other: Vec<_> = (0..9).map(|i| response(i, "x", "", &[("c", 1.0)])).collect();
    let d = Drift::of(&input(rows, other)).unwrap();
    for line in d.text(TextStyle { colour: false, rows: 5, pairs: 3 }).lines() {
        assert!(visible::columns(line) <= text::WIDTH, "{} columns: {line}", visible::columns(line));
    }
}

#[test]
fn the_page_shows_both_sides_and_their_tokens() {
    let rows: Vec<_> = (0..10).map(|i| response(i, "care", "", &[("sorry", 2.5), (" no", 0.0)])).collect();
    let other: Vec<_> = (0..10).map(|i| response(i, "care", "", &[("yes", 0.3)])).collect();
    let html = Drift::of(&input(rows, other)).unwrap().html();
    assert!(
        html.contains("<span class=\"k5\" title=\"KL 2.50 nats, log-ratio 0.500\">sorry</span> no"),
        "{html}"
    );
    assert!(html.contains("<span class=\"k2\""));
    assert!(html.contains("href=\"#p0-0\"") && html.contains("id=\"p0-0\""));
    assert!(!html.contains("http"), "nothing is loaded");
}
