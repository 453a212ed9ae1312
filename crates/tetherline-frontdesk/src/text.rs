//! Text as the rubric reads it: lower-case words, without punctuation.

use std::collections::HashMap;

/// Lower-case runs of letters and digits, in order.
pub fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
}

/// Where the run of words `cue` begins in `words`, without overlaps.
pub fn find_runs(words: &[String], cue: &str) -> Vec<usize> {
    let cue: Vec<&str> = cue.split(' ').collect();
    let mut found = Vec::new();
    let mut i = 0;
    while i + cue.len() <= words.len() {
        if words[i..i + cue.len()].iter().zip(&cue).all(|(w, c)| w == c) {
            found.push(i);
            i += cue.len();
        } else {
            i += 1;
        }
    }
    found
}

/// Whether the run of words `cue` occurs in `words`.
pub fn has_run(words: &[String], cue: &str) -> bool {
    !find_runs(words, cue).is_empty()
}

/// How many 4-grams of `words` have occurred before in `words`.
pub fn repeated_4grams(words: &[String]) -> usize {
    let mut seen: HashMap<&[String], usize> = HashMap::new();
    for gram in words.windows(4) {
        *seen.entry(gram).or_default() += 1;
    }
    seen.values().map(|n| n - 1).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_ignore_case_and_punctuation() {
        assert_eq!(words("Hello, it's ORDER-12!"), ["hello", "it", "s", "order", "12"]);
        assert!(words(" ... ").is_empty());
    }

    #[test]
    fn runs_are_counted_without_overlap() {
        let w = words("a a a a b a a");
        assert_eq!(find_runs(&w, "a a"), [0, 2, 5]);
        assert!(has_run(&w, "a b a") && !has_run(&w, "b b"));
        assert!(!has_run(&[], "a"));
    }

    #[test]
    fn repeats_are_counted_beyond_the_first() {
        assert_eq!(repeated_4grams(&words("a b c d e a b c d")), 1);
        assert_eq!(repeated_4grams(&words("x x x x x x")), 2);
        assert_eq!(repeated_4grams(&words("a b c")), 0);
    }
}
