//! Files as they come: gzipped, with a byte order mark, damaged, empty, half bad.

use flate2::{Compression, write::GzEncoder};
use std::io::Write;
use std::path::PathBuf;
use tempfile::TempDir;
use tetherline_data::{
    DataError, ReadOptions, RowKind, Text, check, check_str, read_pairs, read_pairs_str, read_prompts,
};

const SKIP: ReadOptions = ReadOptions { skip_bad_lines: true };
const STRICT: ReadOptions = ReadOptions { skip_bad_lines: false };

fn gz(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).expect("test file");
    encoder.finish().expect("test file")
}

fn file(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).expect("test file");
    path
}

#[test]
fn the_same_rows_come_from_every_packing() {
    let dir = tempfile::tempdir().unwrap();
    let lines = "{\"prompt\": \"é\"}\n{\"prompt\": \"b\"}\n";
    let dos = format!("\u{feff}{}", lines.replace('\n', "\r\n\r\n"));
    let array = "[\n{\"prompt\": \"é\"},\n{\"prompt\": \"b\"}]";
    for bytes in [
        lines.into(),
        dos.clone().into(),
        array.into(),
        gz(lines.as_bytes()),
        gz(dos.as_bytes()),
        gz(array.as_bytes()),
    ] {
        // The name says nothing about the packing.
        let rows = read_prompts(file(&dir, "data.txt", &bytes), &STRICT).unwrap().rows;
        let prompts: Vec<_> = rows.iter().map(|r| r.prompt.last_text()).collect();
        assert_eq!(prompts, ["é", "b"]);
    }
}

#[test]
fn bad_rows_stop_the_reading_or_are_skipped_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(
        &dir,
        "p.jsonl",
        b"{\"prompt\": \"a\"}\n{\"prompt\": \"b\xff\"}\noops\n\n{\"prompt\": 3}\n{\"prompt\": \"c\"}",
    );
    let error = read_prompts(&path, &STRICT).unwrap_err();
    assert_eq!((error.line(), error.is_bad_row()), (Some(2), true));
    assert!(error.to_string().contains("p.jsonl:2: not UTF-8: byte 0xff at offset 13"), "{error}");

    let loaded = read_prompts(&path, &SKIP).unwrap();
    assert_eq!(loaded.rows.iter().map(|r| r.line).collect::<Vec<_>>(), [1, 6]);
    let places: Vec<_> = loaded.skipped.iter().map(|e| (e.line().unwrap(), e.field())).collect();
    assert_eq!(places, [(2, None), (3, None), (5, Some("prompt"))]);
}

#[test]
fn a_bad_array_element_is_named_and_the_rest_survives() {
    let text = "[{\"prompt\": \"a\"},\n {\"prompt\":\n  oops},\n 7, {\"prompt\": \"b\"},]";
    let dir = tempfile::tempdir().unwrap();
    let loaded = read_prompts(file(&dir, "a.json", text.as_bytes()), &SKIP).unwrap();
    assert_eq!(loaded.rows.iter().map(|r| r.line).collect::<Vec<_>>(), [1, 4]);
    let errors: Vec<String> =
        loaded.skipped.iter().map(|e| e.to_string().replace(&dir.path().display().to_string(), "")).collect();
    assert!(errors[0].contains("a.json:3: element 2: not valid JSON"), "{errors:?}");
    assert!(
        errors[1].contains("a.json:4: element 3: expected a JSON object, found the number 7"),
        "{errors:?}"
    );
    assert!(errors[2].contains("element 5: expected a JSON object between the commas"), "{errors:?}");
}

#[test]
fn broken_files_are_errors_even_when_bad_rows_are_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..3000).map(|i| format!("{{\"prompt\": \"{i} {}\"}}\n", i * 7919 % 1000)).collect();
    let packed = gz(text.as_bytes());
    let cut = read_prompts(file(&dir, "cut.gz", &packed[..packed.len() / 2]), &SKIP).unwrap_err();
    assert!(cut.to_string().contains("truncated") && cut.line().unwrap() > 1, "{cut}");
    let mut flipped = packed.clone();
    let end = flipped.len() - 6;
    flipped[end] ^= 1;
    let damaged = read_prompts(file(&dir, "crc.gz", &flipped), &SKIP).unwrap_err();
    assert!(
        matches!(damaged, DataError::Read { .. }) && damaged.to_string().contains("damaged"),
        "{damaged}"
    );
    let open = read_prompts(file(&dir, "open.json", b"[{\"prompt\": \"a\"}, {\"prompt\": \"b\"}"), &SKIP)
        .unwrap_err();
    assert!(matches!(open, DataError::Format { .. }) && open.to_string().contains("expected `]`"), "{open}");
    let missing = read_prompts(dir.path().join("none"), &SKIP).unwrap_err();
    assert!(
        matches!(missing, DataError::Open { .. }) && missing.file().unwrap().ends_with("none"),
        "{missing}"
    );
    assert!(matches!(read_prompts(dir.path(), &SKIP), Err(DataError::Open { .. })));
}

#[test]
fn nothing_to_read_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for bytes in [vec![], b"\xef\xbb\xbf".to_vec(), b" \r\n\n".to_vec(), b"[ ]".to_vec(), gz(b"")] {
        let path = file(&dir, "empty", &bytes);
        let error = read_prompts(&path, &SKIP).unwrap_err();
        assert!(error.to_string().ends_with("empty: no rows: expected at least one JSON object"), "{error}");
        assert!(matches!(check(&path), Err(DataError::Empty { .. })));
    }
    let error = read_prompts(file(&dir, "bad", b"1\n2\n"), &SKIP).unwrap_err().to_string();
    assert!(
        error.contains("all 2 are bad; the first:") && error.contains("bad:1: expected a JSON object"),
        "{error}"
    );
}

#[test]
fn a_check_counts_everything_and_fits_80_columns() {
    let long = "x".repeat(200);
    let text = format!(
        "{{\"prompt\": \"abc\", \"chosen\": \"c\", \"rejected\": \"cc\", \"domain\": \"{long}\", \"user\": \"u\", \"score\": 1}}\n\
         {{\"prompt\": \"abc\", \"chosen\": \"c\", \"rejected\": \"cc\", \"user\": \"v\", \"score\": 1, \"id\": 2}}\n\
         {{\"prompt\": \"héllo\", \"chosen\": \"c\", \"rejected\": \"c\", \"margin\": 1}}\n\
         {{\"prompt\": \"p\", \"response\": \" \"}}\n\
         {{\"prompt\": \"p\"}}\n\
         {{\"input_ids\": [1, 2, 3], \"prompt_len\": 2}}\n\
         {{\"{long}\": 1}}\n\
         \u{1b}[31m\n"
    );
    let report = check_str("f.jsonl", &text).unwrap();
    let kinds = [(RowKind::Prompt, 1), (RowKind::Demonstration, 1), (RowKind::Pair, 3), (RowKind::Tokens, 1)];
    assert_eq!(report.rows, kinds.into());
    assert_eq!((report.total(), report.bad.len(), report.is_clean()), (6, 2, false));
    assert_eq!(report.domains, [(long, 1), ("all".to_owned(), 5)].into());
    assert_eq!((report.users, report.duplicates, report.distinct_prompts), (2, 1, 3));
    assert_eq!((report.identical_pairs, report.margins, report.blank_texts, report.recut), (1, 1, 1, 0));
    assert_eq!(report.extra_fields, [("score".to_owned(), 2), ("id".to_owned(), 1)].into());
    let lengths: Vec<_> = report.lengths.iter().map(|(n, l)| (*n, l.min, l.median, l.max)).collect();
    assert_eq!(
        lengths,
        [
            ("prompt", 1, 3, 5),
            ("response", 1, 1, 1),
            ("chosen", 1, 1, 1),
            ("rejected", 1, 2, 2),
            ("input_ids", 3, 3, 3),
        ]
    );
    let table = report.to_string();
    assert!(table.lines().all(|l| l.chars().count() <= 80), "{table}");
    assert!(!table.contains('\u{1b}'), "{table}");
    assert!(table.contains("1 prompt, 1 demonstration, 3 preference pairs, 1 row of token ids"), "{table}");
    assert!(table.contains("line 7: expected"), "{table}");
}

#[test]
fn a_check_says_how_the_file_is_packed() {
    let dir = tempfile::tempdir().unwrap();
    let report = check(file(&dir, "x", &gz(b"[{\"prompt\": \"a\"}]"))).unwrap();
    assert!(report.gzipped && report.array && report.is_clean());
    assert!(report.to_string().contains("JSON array, gzipped"), "{report}");
}

/// The real preference pairs of the oracle: cut by TRL at a common character, so that in a fifth of
/// them the prompt swallowed the beginning of both answers.
#[test]
fn real_pairs_are_cut_at_turns() {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/oracle");
    let oracle = std::env::var("TETHER_ORACLE").unwrap_or_else(|_| default.to_owned());
    let path = PathBuf::from(&oracle).join("data/hh_harmless.jsonl");
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("SKIPPED: oracle not found at {oracle} (set TETHER_ORACLE)");
        return;
    };
    let raw: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |row: &serde_json::Value, name: &str| row[name].as_str().unwrap().to_owned();
    let whole = |row| ["chosen", "rejected"].map(|answer| of(row, "prompt") + &of(row, answer));

    let columns = read_pairs(&path, &STRICT).unwrap().rows;
    let transcripts: String = raw
        .iter()
        .map(whole)
        .map(|[chosen, rejected]| {
            serde_json::json!({"chosen": chosen, "rejected": rejected}).to_string() + "\n"
        })
        .collect();
    let implicit = read_pairs_str("transcripts", &transcripts, &STRICT).unwrap().rows;
    assert_eq!((columns.len(), implicit.len()), (1800, 1800));
    // Counted with Python: prompts that do not end in "\n\nAssistant:".
    assert_eq!(columns.iter().filter(|r| r.recut).count(), 351);
    for ((a, b), row) in columns.iter().zip(&implicit).zip(&raw) {
        assert_eq!((&a.prompt, &a.chosen, &a.rejected), (&b.prompt, &b.chosen, &b.rejected));
        let [Text::Plain(p), Text::Plain(c), Text::Plain(r)] = [&a.prompt, &a.chosen, &a.rejected] else {
            panic!()
        };
        assert!(p.ends_with("\n\nAssistant:"), "{p:?}");
        assert_eq!([p.clone() + c, p.clone() + r], whole(row), "nothing is lost");
        let turn = c.find("\n\nAssistant:").map(|at| &c[..at + 12]);
        assert!(turn.is_none_or(|turn| !r.starts_with(turn)), "a shared turn stayed behind");
    }
    let report = check(&path).unwrap();
    assert_eq!((report.total(), report.recut, report.bad.len()), (1800, 351, 0));
}
