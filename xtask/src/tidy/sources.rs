//! Rules about single files: a Rust file opens with its argument, stays readable in length and holds no
//! unfinished business; nothing names a place on one person's machine.

use super::Violation;

/// Longest Rust file, in lines.
const MAX_LINES: usize = 700;

/// Beginnings of paths that exist only on one machine. (Split, so that this file passes.)
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/home", "/")];

/// Also unwanted in prose, where a reader would copy it.
const TEMP_PATH: &str = concat!("/tm", "p/");

/// Macros that stand for code that is not there.
const UNFINISHED: &[&str] = &[concat!("to", "do!("), concat!("unimple", "mented!(")];

/// Checks one tracked text file; `name` is its path from the root, with `/`.
pub(super) fn check(name: &str, text: &str) -> Vec<Violation> {
    let is_rust = name.ends_with(".rs");
    let mut violations = Vec::new();
    let mut report = |line: usize, message: String| violations.push(Violation::new(name, line, message));
    if is_rust {
        let in_tests = name.split('/').any(|part| part == "tests" || part == "tests.rs");
        if !in_tests && !text.starts_with("//!") {
            report(1, "a Rust file begins with `//!`: what it is for, and why so".to_owned());
        }
        let lines = text.lines().count();
        if lines > MAX_LINES {
            report(MAX_LINES + 1, format!("{lines} lines, at most {MAX_LINES}: split it by idea"));
        }
    }
    for (number, line) in (1..).zip(text.lines()) {
        if is_rust {
            for word in UNFINISHED.iter().filter(|word| line.contains(**word)) {
                report(number, format!("unfinished: {word}…)"));
            }
        }
        let temp = name.ends_with(".md").then_some(TEMP_PATH);
        for path in MACHINE_PATHS.iter().copied().chain(temp) {
            if starts_a_path(line, path) {
                report(number, format!("{path}… is a path on one machine"));
            }
        }
    }
    violations
}

/// Whether `path` occurs in `line` at the beginning of a path (so not in `frame/work/x`).
fn starts_a_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(i, _)| {
        let before = line[..i].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | '/' | '~'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    fn lines(name: &str, text: &str) -> Vec<usize> {
        check(name, text).into_iter().map(|v| v.line).collect()
    }

    #[test]
    fn a_rust_file_begins_with_its_argument() {
        assert_eq!(lines("crates/a/src/lib.rs", "//! What.\n"), NONE);
        assert_eq!(lines("crates/a/src/lib.rs", "use std::fs;\n"), [1]);
        assert_eq!(lines("crates/a/tests/x.rs", "use std::fs;\n"), NONE);
        assert_eq!(lines("notes.md", "# Notes\n"), NONE);
    }

    #[test]
    fn a_long_file_is_reported() {
        let long = "//! Long.\n".repeat(MAX_LINES);
        assert_eq!(lines("a.rs", &long), NONE);
        assert_eq!(lines("a.rs", &format!("{long}\n")), [MAX_LINES + 1]);
    }

    #[test]
    fn unfinished_code_is_reported_at_its_line() {
        let text = format!("//! A.\nfn f() {{\n    {}\n}}\n", concat!("to", "do!()"));
        assert_eq!(lines("a.rs", &text), [3]);
    }

    #[test]
    fn machine_paths_are_reported_and_relative_ones_are_not() {
        let path = concat!("/wo", "rk/x");
        assert_eq!(lines("a.md", &format!("see {path}\n")), [1]);
        assert_eq!(lines("a.toml", &format!("a = 1\np = \"{path}\"\n")), [2]);
        assert_eq!(lines("a.md", &format!("see frame{path}\n")), NONE);
        let temp = concat!("/tm", "p/x");
        assert_eq!(lines("a.md", temp), [1]);
        assert_eq!(lines("a.py", temp), NONE);
    }
}
