use super::*;
use tetherline_data::{Message, ReadOptions, read_pairs};

/// A queue of `n` pairs, every third with messages.
fn queue(dir: &Path, n: usize) -> PathBuf {
    let out = dir.join("pairs.jsonl");
    let mut text = String::from(
        "{\"first_policy\":\"new\",\"second_policy\":\"old\",\"seed\":4,\"prompts\":\"p\",\"rewards\":[]}\n",
    );
    for i in 0..n {
        let prompt = match i % 3 {
            2 => Text::Messages(vec![Message::user(format!("ask {i}"))]),
            _ => Text::Plain(format!("ask {i}:")),
        };
        let candidate = Candidate {
            pair: format!("{i:016x}"),
            prompt,
            first: format!(" new {i}"),
            second: format!(" old {i}"),
            domain: "desk".into(),
            user: if i == 0 { "u1".into() } else { String::new() },
            disagreement: None,
        };
        text += &(serde_json::to_string(&candidate).unwrap() + "\n");
    }
    std::fs::write(files_beside(&out).0, text).unwrap();
    out
}

/// Answers that the response of the first policy is better, wherever it stands.
fn prefer_new(session: &mut Session) {
    let shown = session.next().unwrap();
    let answer = if shown.left.contains("new") { Answer::Left } else { Answer::Right };
    session.answer(answer, None).unwrap();
}

fn rows(out: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(out).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn choices_become_pairs_that_the_reward_trainer_reads() {
    let dir = tempfile::tempdir().unwrap();
    let out = queue(dir.path(), 6);
    let mut session = Session::open(&out, "ann").unwrap();
    for _ in 0..4 {
        prefer_new(&mut session);
    }
    session.answer(Answer::Tie, Some("both are fine")).unwrap();
    session.answer(Answer::Skip, None).unwrap();
    assert!(session.next().is_none());
    assert_eq!(session.progress(), (5, 6));
    let loaded = read_pairs(&out, &ReadOptions::default()).unwrap().rows;
    assert_eq!(loaded.len(), 4, "a tie and a skip are no preferences");
    for (i, pair) in loaded.iter().enumerate() {
        assert!(
            pair.chosen.last_text().contains("new") && pair.rejected.last_text().contains("old"),
            "{pair:?}"
        );
        assert_eq!((pair.domain.as_str(), pair.user.as_str()), ("desk", if i == 0 { "u1" } else { "" }));
    }
    assert_eq!(loaded[2].prompt, Text::Messages(vec![Message::user("ask 2")]));
    let rows = rows(&out);
    assert!(
        rows.iter().all(|r| r["labeler"] == "ann" && r["chosen_by"] == "new" && r["rejected_by"] == "old")
    );
}

#[test]
fn a_session_goes_on_where_it_was_left_and_undoes_what_another_did() {
    let dir = tempfile::tempdir().unwrap();
    let out = queue(dir.path(), 5);
    let mut session = Session::open(&out, "ann").unwrap();
    prefer_new(&mut session);
    session.answer(Answer::Skip, None).unwrap();
    prefer_new(&mut session);
    drop(session);
    // A torn line, as a killed process leaves it.
    let journal = files_beside(&out).1;
    let mut text = std::fs::read_to_string(&journal).unwrap();
    text.push_str("{\"pair\":\"00");
    std::fs::write(&journal, text).unwrap();

    let mut session = Session::open(&out, "ann").unwrap();
    assert_eq!(session.next().unwrap().candidate.pair, format!("{:016x}", 1), "the skipped one comes back");
    assert!(session.undo().unwrap());
    assert_eq!(rows(&out).len(), 1);
    assert_eq!(session.progress(), (1, 5));
    // The skip and the first choice, then nothing.
    assert!(session.undo().unwrap() && session.undo().unwrap() && !session.undo().unwrap());
    assert!(rows(&out).is_empty());
    let journal = std::fs::read_to_string(&journal).unwrap();
    assert_eq!(journal.lines().count(), 6, "nothing is lost:\n{journal}");
    // Another labeler has the whole queue.
    let mut bob = Session::open(&out, "bob").unwrap();
    assert_eq!(bob.progress(), (0, 5));
    assert!(!bob.undo().unwrap());
}

#[test]
fn sides_are_drawn_per_labeler_and_pair() {
    let dir = tempfile::tempdir().unwrap();
    let out = queue(dir.path(), 200);
    let sides = |labeler: &str| -> Vec<bool> {
        let session = Session::open(&out, labeler).unwrap();
        session.queue.candidates.iter().map(|c| session.shown(c).first_on_left).collect()
    };
    let (ann, bob) = (sides("ann"), sides("bob"));
    assert_eq!(ann, sides("ann"));
    let left = ann.iter().filter(|l| **l).count();
    let same = ann.iter().zip(&bob).filter(|(a, b)| a == b).count();
    // Binomial(200, ½): within four standard deviations of 100.
    assert!((72..=128).contains(&left) && (72..=128).contains(&same), "{left} {same}");
}

#[test]
fn statistics_of_two_labelers_by_hand() {
    let label = |pair: u32, labeler: &str, answer, first_on_left| {
        Entry::Label(Label {
            pair: pair.to_string(),
            labeler: labeler.into(),
            answer,
            first_on_left,
            reason: None,
        })
    };
    // ann: first, first, second, tie. bob: first, second, second, (skipped).
    let ann = vec![
        label(0, "ann", Answer::Left, true),
        label(1, "ann", Answer::Right, false),
        label(2, "ann", Answer::Left, false),
        label(3, "ann", Answer::Tie, true),
    ];
    let bob = vec![
        label(0, "bob", Answer::Left, true),
        label(1, "bob", Answer::Left, true),
        Entry::Undo { undo: "1".into(), labeler: "bob".into() },
        label(1, "bob", Answer::Left, false),
        label(2, "bob", Answer::Left, false),
        label(3, "bob", Answer::Skip, true),
    ];
    let found = stats(&[ann, bob]);
    let wins = found.first_wins.unwrap();
    assert_eq!((wins.n, wins.hits), (7, 3.5));
    let ann = &found.labelers["ann"];
    assert_eq!((ann.judged, ann.ties, ann.skipped, ann.left.unwrap().hits), (4, 1, 0, 2.0));
    assert_eq!((found.labelers["bob"].judged, found.labelers["bob"].skipped), (3, 1));
    let pair = &found.agreement.pairs[0];
    // Agree on 0 and 2 of 3; by chance 2/3·1/3 + 1/3·2/3 = 4/9: κ = (2/3 − 4/9)/(5/9) = 0.4.
    assert_eq!(pair.items, 3);
    assert!((pair.share - 2.0 / 3.0).abs() < 1e-12 && (pair.kappa.unwrap() - 0.4).abs() < 1e-12);
    let text = found.text();
    assert!(text.contains("ann and bob: agree on 67 % of 3, Cohen's κ 0.400"), "{text}");
    assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
    assert!(!stats(&[vec![label(0, "\u{1b}[2J", Answer::Tie, true)]]).text().contains('\u{1b}'));
}

#[test]
fn what_is_damaged_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = queue(dir.path(), 2);
    assert!(Session::open(&out, " ").unwrap_err().to_string().contains("--labeler"));
    std::fs::write(files_beside(&out).1, "{\"pair\": 3}\n").unwrap();
    let e = Session::open(&out, "ann").unwrap_err().to_string();
    assert!(e.contains("pairs.labels.jsonl line 1") && e.contains("first_on_left"), "{e}");
    std::fs::write(files_beside(&out).0, "{}\n").unwrap();
    assert!(Session::open(&out, "ann").unwrap_err().to_string().contains("pairs.queue.jsonl line 1"));
}
