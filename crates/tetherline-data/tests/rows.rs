//! Every accepted form of a row, and what is said about every other.

use tetherline_data::{
    ComparisonRow, DataError, Message, PairRow, ReadOptions, ScoreInput, Text, read_comparisons_str,
    read_pairs_str, read_prompts_str, read_scores_str, read_sft_str,
};

const STRICT: ReadOptions = ReadOptions { skip_bad_lines: false };

fn plain(s: &str) -> Text {
    Text::Plain(s.to_owned())
}

fn user(s: &str) -> Text {
    Text::Messages(vec![Message::user(s)])
}

fn assistant(s: &str) -> Text {
    Text::Messages(vec![Message::assistant(s)])
}

fn pair(row: &str) -> Result<PairRow, String> {
    read_pairs_str("f", row, &STRICT).map(|mut l| l.rows.remove(0)).map_err(|e| e.to_string())
}

#[track_caller]
fn assert_pair(row: &str, prompt: Text, chosen: Text, rejected: Text) {
    let got = pair(row).expect("a good pair");
    assert_eq!((got.prompt, got.chosen, got.rejected), (prompt, chosen, rejected));
}

fn comparison(row: &str) -> Result<ComparisonRow, String> {
    read_comparisons_str("f", row, &STRICT).map(|mut l| l.rows.remove(0)).map_err(|e| e.to_string())
}

#[test]
fn soft_labels_ties_and_agreement() {
    let row = |more: &str| pair(&format!(r#"{{"prompt": "p", "chosen": "c", "rejected": "r"{more}}}"#));
    let read = |more: &str| row(more).map(|r| (r.label, r.agreement)).unwrap();
    assert_eq!(read(""), (None, None));
    assert_eq!(read(r#", "p_chosen": 0.7, "agreement": 0.9"#), (Some(0.7), Some(0.9)));
    assert_eq!(read(r#", "p_chosen": 0.5"#), (Some(0.5), None));
    assert_eq!(read(r#", "p_chosen": 0"#), (Some(0.0), None));
    for (more, said) in [
        (r#", "p_chosen": 1.1"#, "field `p_chosen`: expected a number from 0 to 1"),
        (r#", "p_chosen": "tie""#, "field `p_chosen`: expected a number from 0 to 1"),
        (r#", "agreement": 0.4"#, "field `agreement`: expected a number from 0.5 to 1"),
    ] {
        let error = row(more).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn rankings_are_best_first_or_have_ranks() {
    let row = comparison(r#"{"prompt": "p", "responses": ["a", "b", "c"], "domain": "d"}"#).unwrap();
    assert_eq!((row.prompt, row.ranks, &*row.domain), (plain("p"), vec![1, 2, 3], "d"));
    assert_eq!(row.answers, [plain("a"), plain("b"), plain("c")]);
    let row = comparison(r#"{"prompt": "p", "responses": ["a", "b", "c"], "ranks": [2, 1, 2]}"#).unwrap();
    assert_eq!(row.ranks, [2, 1, 2]);
    let chat = r#"{"prompt": [{"role": "user", "content": "p"}],
        "responses": ["a", [{"role": "assistant", "content": "b"}]]}"#;
    let row = comparison(&chat.replace('\n', " ")).unwrap();
    assert_eq!((row.prompt, row.answers), (user("p"), vec![assistant("a"), assistant("b")]));
    // A pair is a ranking of two.
    let row = comparison(r#"{"prompt": "p", "chosen": "c", "rejected": "r", "p_chosen": 0.5, "margin": 1}"#)
        .unwrap();
    assert_eq!((row.answers, row.ranks), (vec![plain("c"), plain("r")], vec![1, 2]));
    assert_eq!((row.label, row.margin), (Some(0.5), Some(1.0)));
    for (row, said) in [
        (
            r#"{"prompt": "p", "responses": ["a"]}"#,
            "field `responses`: expected at least two responses, found 1",
        ),
        (r#"{"prompt": "p", "responses": ["a", 3]}"#, "field `responses[1]`: expected a string or a list"),
        (r#"{"prompt": "p", "responses": ["a", "b"], "ranks": [1]}"#, "field `ranks`: expected 2 ranks"),
        (r#"{"prompt": "p", "responses": ["a", "b"], "ranks": [0, 1]}"#, "field `ranks[0]`: expected a rank"),
        (
            r#"{"prompt": "p", "responses": ["a", "b"], "p_chosen": 0.5}"#,
            "field `p_chosen`: it belongs to a pair",
        ),
        (r#"{"responses": ["a", "b"]}"#, "expected `prompt` beside `responses`"),
    ] {
        let error = comparison(row).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn a_prompt_may_have_an_answer() {
    let text = r#"
        {"prompt": "1 + 1?", "answer": "2"}
        {"prompt": "2 + 2?", "answer": 4}
        {"prompt": "a", "responses": ["x", "y"]}"#;
    let rows = read_prompts_str("f", text, &STRICT).unwrap().rows;
    assert_eq!(rows.iter().map(|r| &*r.answer).collect::<Vec<_>>(), ["2", "4", ""]);
}

#[test]
fn prompts_come_with_tags_and_line_numbers() {
    let text = "{\"prompt\": \"a\", \"domain\": \"code\", \"user\": 7}\n\n{\"prompt\": [{\"role\": \"user\", \
                \"content\": \"b\"}], \"domain\": null}\r\n";
    let rows = read_prompts_str("f", text, &STRICT).unwrap().rows;
    assert_eq!(
        (&rows[0].prompt, &*rows[0].domain, &*rows[0].user, rows[0].line),
        (&plain("a"), "code", "7", 1)
    );
    assert_eq!((&rows[1].prompt, &*rows[1].domain, &*rows[1].user, rows[1].line), (&user("b"), "all", "", 3));
}

#[test]
fn prompts_can_be_taken_from_demonstrations_and_pairs() {
    let text = r#"
        {"prompt": "a", "response": "x"}
        {"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "x"}]}
        {"chosen": "\n\nHuman: c\n\nAssistant: x", "rejected": "\n\nHuman: c\n\nAssistant: xy"}
        {"messages": [{"role": "user", "content": "d"}]}"#;
    let rows = read_prompts_str("f", text, &STRICT).unwrap().rows;
    let prompts: Vec<Text> = rows.into_iter().map(|r| r.prompt).collect();
    assert_eq!(prompts, [plain("a"), user("b"), plain("\n\nHuman: c\n\nAssistant:"), user("d")]);
}

#[test]
fn demonstrations_are_prompt_and_response_or_messages() {
    let text = r#"[
        {"prompt": "a", "response": " b"},
        {"prompt": [{"role": "user", "content": "a"}], "response": [{"role": "assistant", "content": "b"}]},
        {"prompt": "ignored", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    ]"#;
    let rows = read_sft_str("f", text, &STRICT).unwrap().rows;
    let got: Vec<_> = rows.into_iter().map(|r| (r.prompt, r.response, r.line)).collect();
    assert_eq!(got, [(plain("a"), " b".into(), 2), (user("a"), "b".into(), 3), (user("a"), "b".into(), 4)]);
}

#[test]
fn pairs_with_a_prompt() {
    assert_pair(r#"{"prompt": "p", "chosen": "c", "rejected": "r"}"#, plain("p"), plain("c"), plain("r"));
    let (c, r) = (r#"[{"role": "assistant", "content": "c"}]"#, r#"[{"role": "assistant", "content": "r"}]"#);
    let p = r#"[{"role": "user", "content": "p"}]"#;
    for (p, c, r) in [(p, c, r), ("\"p\"", c, r), (p, "\"c\"", "\"r\""), (p, c, "\"r\"")] {
        let row = format!(r#"{{"prompt": {p}, "chosen": {c}, "rejected": {r}}}"#);
        assert_pair(&row, user("p"), assistant("c"), assistant("r"));
    }
    let row =
        pair(r#"{"prompt": "p", "chosen": "c", "rejected": "r", "margin": 0.5, "domain": "d"}"#).unwrap();
    assert_eq!((row.margin, &*row.domain, row.recut), (Some(0.5), "d", false));
}

#[test]
fn pairs_as_whole_conversations() {
    let turn = |a: &str| {
        format!(r#"[{{"role": "user", "content": "p"}}, {{"role": "assistant", "content": "{a}"}}]"#)
    };
    let (c, r) = (turn("c"), turn("r"));
    for prompt in ["", r#""prompt": "p", "#, r#""prompt": [{"role": "user", "content": "p"}], "#] {
        let row = format!(r#"{{{prompt}"chosen": {c}, "rejected": {r}}}"#);
        assert_pair(&row, user("p"), assistant("c"), assistant("r"));
    }
    let other = format!(r#"{{"prompt": "q", "chosen": {c}, "rejected": {r}}}"#);
    assert!(pair(&other).unwrap_err().contains("field `prompt`: expected `chosen` and `rejected` to start"));

    // A prompt that the transcripts repeat, and one that was cut in the middle of a word.
    let whole = plain("\n\nHuman: p\n\nAssistant:");
    let repeated = r#"{"prompt": "\n\nHuman: p\n\nAssistant:", "chosen": "\n\nHuman: p\n\nAssistant: c", "rejected": "\n\nHuman: p\n\nAssistant: r"}"#;
    assert_pair(repeated, whole.clone(), plain(" c"), plain(" r"));
    let cut = r#"{"prompt": "\n\nHuman: p\n\nAssistant: I’", "chosen": "m sorry", "rejected": "d love to"}"#;
    assert_pair(cut, whole, plain(" I’m sorry"), plain(" I’d love to"));
    assert!(pair(cut).unwrap().recut);
    // Outside the transcript form a prompt is what the file says, wherever it ends.
    assert_pair(r#"{"prompt": "I", "chosen": "'m", "rejected": "'d"}"#, plain("I"), plain("'m"), plain("'d"));
}

#[test]
fn rows_to_score_are_text_messages_or_token_ids() {
    let text = r#"{"prompt": "a", "response": "b"}
        {"input_ids": [1, 4294967295, 3], "prompt_len": 1}
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let inputs: Vec<_> =
        read_scores_str("f", text, &STRICT).unwrap().rows.into_iter().map(|r| r.input).collect();
    let of = |prompt, response: &str| ScoreInput::Text { prompt, response: response.to_owned() };
    let ids = ScoreInput::Tokens { input_ids: vec![1, u32::MAX, 3], prompt_len: 1 };
    assert_eq!(inputs, [of(plain("a"), "b"), ids, of(user("a"), "b")]);
}

#[test]
fn every_bad_row_names_its_field_and_what_was_expected() {
    type Reader = fn(&str) -> Result<(), DataError>;
    let prompts: Reader = |t| read_prompts_str("f", t, &STRICT).map(drop);
    let sft: Reader = |t| read_sft_str("f", t, &STRICT).map(drop);
    let pairs: Reader = |t| read_pairs_str("f", t, &STRICT).map(drop);
    let scores: Reader = |t| read_scores_str("f", t, &STRICT).map(drop);
    let cases = [
        (prompts, r#"{"text": "a"}"#, "f:1: expected a field `prompt`; found `text`"),
        (prompts, r#"{}"#, "expected a field `prompt`; found no field"),
        (prompts, r#""a""#, "f:1: expected a JSON object, found a string"),
        (
            prompts,
            r#"{"prompt": true}"#,
            "field `prompt`: expected a string or a list of messages, found true",
        ),
        (prompts, r#"{"prompt": []}"#, "field `prompt`: expected at least one message"),
        (prompts, r#"{"prompt": "a", "domain": ["x"]}"#, "field `domain`: expected a string or an integer"),
        (
            prompts,
            r#"{"prompt": "a", "user": 1.5}"#,
            "field `user`: expected a string or an integer, found the number 1.5",
        ),
        (prompts, r#"{"prompt": [{"role": "assistant", "content": "a"}]}"#, "field `prompt[0].role`"),
        (
            prompts,
            r#"{"messages": [{"role": "assistant", "content": "a"}]}"#,
            "a message before the assistant's",
        ),
        (prompts, r#"{"prompt": "a",}"#, "f:1: not valid JSON: trailing comma (column 16)"),
        (prompts, r#"{"prompt": "\ud800"}"#, "f:1: not valid JSON"),
        (sft, r#"{"prompt": "a"}"#, "expected `prompt` and `response`, or `messages`; found `prompt`"),
        (sft, r#"{"prompt": "a", "response": null}"#, "found `prompt`"),
        (sft, r#"{"prompt": "a", "response": {}}"#, "field `response`: expected a string"),
        (
            sft,
            r#"{"messages": {"role": "user"}}"#,
            "field `messages`: expected a list of messages, found an object",
        ),
        (sft, r#"{"messages": ["hi"]}"#, "field `messages[0]`: expected a message like"),
        (
            sft,
            r#"{"messages": [{"role": "user"}]}"#,
            "field `messages[0].content`: expected a string, found nothing",
        ),
        (sft, r#"{"messages": [{"role": "", "content": "a"}]}"#, "field `messages[0].role`: expected a role"),
        (
            sft,
            r#"{"messages": [{"role": "user", "content": "a"}]}"#,
            "expected `assistant` in the last message, found `user`",
        ),
        (
            sft,
            r#"{"messages": [], "response": "a"}"#,
            "field `messages`: expected `response` or `messages`, found both",
        ),
        (pairs, r#"{"prompt": "a", "chosen": "b"}"#, "expected `chosen` and `rejected`"),
        (pairs, r#"{"chosen": "b", "rejected": "c"}"#, "field `chosen`: expected a transcript"),
        (
            pairs,
            r#"{"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: b"}"#,
            "no shared turn",
        ),
        (
            pairs,
            r#"{"chosen": [{"role": "assistant", "content": "b"}], "rejected": [{"role": "assistant", "content": "c"}]}"#,
            "no shared start",
        ),
        (
            pairs,
            r#"{"prompt": "a", "chosen": "b", "rejected": "c", "margin": "1"}"#,
            "field `margin`: expected a finite number",
        ),
        (scores, r#"{"input_ids": [1, -2], "prompt_len": 1}"#, "field `input_ids[1]`: expected a token id"),
        (scores, r#"{"input_ids": [1, 4294967296], "prompt_len": 1}"#, "found the number 4294967296"),
        (scores, r#"{"input_ids": [1, 2]}"#, "expected a field `prompt_len`"),
        (
            scores,
            r#"{"input_ids": [1, 2], "prompt_len": 3}"#,
            "field `prompt_len`: expected an integer from 1 to 2",
        ),
        (scores, r#"{"input_ids": [1, 2], "prompt_len": 0}"#, "found the number 0"),
    ];
    for (read, row, want) in cases {
        let error = read(row).expect_err(row).to_string();
        assert!(error.contains(want), "{row}\n  got  {error}\n  want {want}");
    }
}
