//! `tether label`: a queue of pairs and a person with a keyboard.

use crate::cli::{Cli, LabelArgs};
use crate::exit_codes::UsageError;
use crate::output;
use crate::progress::{Progress, Show};
use console::{Key, Term};
use std::io::{BufRead, IsTerminal};
use tetherline::eval::drift::visible;
use tetherline::label::{
    Answer, LabelOptions, Session, Shown, files_beside, make_queue, read_journal, stats,
};
use tetherline_rollout::SamplingConfig;

/// Columns of text.
const WIDTH: usize = 96;

pub(crate) fn run(cli: &Cli, args: &LabelArgs) -> anyhow::Result<()> {
    let (Some(out), Some(labeler)) = (&args.out, &args.labeler) else {
        return agreement(args);
    };
    let (queue, journal) = files_beside(out);
    if queue.is_file() {
        if args.policy.is_some() {
            let text = format!(
                "{} is there already: leave --policy out to go on with it, or choose another --out",
                queue.display()
            );
            return Err(UsageError(text).into());
        }
    } else {
        let options = options(args)?;
        let mut progress = Progress::new(Show::choose(cli.quiet, cli.verbose), None);
        let pairs = make_queue(&queue, &options, &mut progress)?;
        output::line(&format!("{pairs} pairs to judge: {}", queue.display()));
    }
    let mut session = Session::open(out, labeler)?;
    serve(&mut session)?;
    let (judged, total) = session.progress();
    output::line(&format!(
        "{judged} of {total} judged; preferences: {}, journal: {}",
        out.display(),
        journal.display()
    ));
    Ok(())
}

fn options(args: &LabelArgs) -> anyhow::Result<LabelOptions> {
    let (Some(first), Some(second), Some(prompts)) = (&args.policy, &args.other, &args.prompts) else {
        let text = "there is no queue yet: give --policy, --other and --prompts to make one";
        return Err(UsageError(text.to_owned()).into());
    };
    let sampling = SamplingConfig {
        temperature: args.temperature,
        max_new_tokens: args.max_new_tokens,
        ..SamplingConfig::default()
    };
    sampling.validate().map_err(|e| UsageError(format!("--{}: {}", e.field.replace('_', "-"), e.problem)))?;
    Ok(LabelOptions {
        first: first.clone(),
        second: second.clone(),
        prompts: prompts.clone(),
        rewards: args.reward.clone(),
        most: args.most,
        chat: args.chat,
        sampling,
        seed: args.seed,
        batch_size: args.batch.batch_size,
        threads: args.batch.threads,
        device: args.batch.device,
        skip_bad_lines: args.batch.skip_bad_lines,
    })
}

fn agreement(args: &LabelArgs) -> anyhow::Result<()> {
    let mut journals = Vec::new();
    for path in &args.agreement {
        if !path.is_file() {
            return Err(UsageError(format!("--agreement: there is no file {}", path.display())).into());
        }
        journals.push(read_journal(path)?);
    }
    let found = stats(&journals);
    output::result(&if args.json {
        serde_json::to_string(&found)?
    } else {
        found.text().trim_end().to_owned()
    });
    Ok(())
}

/// What a person wants.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wish {
    Answer(Answer),
    Undo,
    /// A reason, or the wish to type one.
    Reason(Option<String>),
    Quit,
    Unknown,
}

impl Wish {
    fn of_key(key: &Key) -> Self {
        match key {
            Key::ArrowLeft => Wish::Answer(Answer::Left),
            Key::ArrowRight => Wish::Answer(Answer::Right),
            Key::Backspace => Wish::Undo,
            Key::Escape | Key::CtrlC => Wish::Quit,
            Key::Char(c) => Self::of_char(*c),
            _ => Wish::Unknown,
        }
    }

    fn of_char(c: char) -> Self {
        match c.to_ascii_lowercase() {
            '1' => Wish::Answer(Answer::Left),
            '2' => Wish::Answer(Answer::Right),
            't' => Wish::Answer(Answer::Tie),
            's' => Wish::Answer(Answer::Skip),
            'u' => Wish::Undo,
            'r' => Wish::Reason(None),
            // Ctrl-C and Ctrl-D, as a terminal in raw mode gives them.
            'q' | '\u{3}' | '\u{4}' => Wish::Quit,
            _ => Wish::Unknown,
        }
    }

    /// Of a line: the first character, and behind `r` the reason.
    fn of_line(line: &str) -> Self {
        let line = line.trim();
        let mut chars = line.chars();
        match (chars.next(), chars.as_str().trim()) {
            (Some('r' | 'R'), reason) => Wish::Reason(Some(reason.to_owned())),
            (Some(c), "") => Self::of_char(c),
            _ => Wish::Unknown,
        }
    }
}

/// Shows pairs and takes answers until the labeler quits: also the last answer can be taken back.
fn serve(session: &mut Session) -> anyhow::Result<()> {
    let terminal = Term::stdout();
    let keys = terminal.is_term() && std::io::stdin().is_terminal();
    let mut lines = std::io::stdin().lock().lines();
    let mut reason: Option<String> = None;
    let mut said = String::new();
    loop {
        if keys {
            terminal.clear_screen()?;
        }
        let shown = session.next();
        let any = shown.is_some();
        output::result(&match shown {
            Some(shown) => page(&shown, session.progress(), reason.as_deref(), &said),
            None => format!("{said}\nnothing is left to judge   u undo   q quit").trim_start().to_owned(),
        });
        said.clear();
        let wish = if keys {
            match terminal.read_key() {
                Ok(key) => Wish::of_key(&key),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => Wish::Quit,
                Err(e) => return Err(e.into()),
            }
        } else {
            match lines.next().transpose()? {
                Some(line) => Wish::of_line(&line),
                None => Wish::Quit,
            }
        };
        match wish {
            Wish::Answer(_) if !any => {}
            Wish::Answer(answer) => {
                session.answer(answer, reason.take().as_deref())?;
                said = match answer {
                    Answer::Left => "left is better",
                    Answer::Right => "right is better",
                    Answer::Tie => "a tie",
                    Answer::Skip => "skipped",
                }
                .to_owned();
            }
            Wish::Undo => {
                said = if session.undo()? {
                    "the last answer is taken back"
                } else {
                    "there is nothing to undo"
                }
                .to_owned();
            }
            Wish::Reason(Some(text)) => reason = Some(text),
            Wish::Reason(None) => {
                terminal.write_str("reason: ")?;
                reason = Some(terminal.read_line()?);
            }
            Wish::Quit => return Ok(()),
            Wish::Unknown => {
                said = "keys: 1 left, 2 right, t tie, s skip, u undo, r reason, q quit".to_owned()
            }
        }
    }
}

/// A pair as text. What models and users wrote is inert.
fn page(shown: &Shown<'_>, (judged, total): (usize, usize), reason: Option<&str>, said: &str) -> String {
    let c = shown.candidate;
    let rule = "─".repeat(WIDTH);
    let mut out = format!("{judged} of {total} judged    [{}]", visible(&c.domain));
    if !said.is_empty() {
        out += &format!("    ({said})");
    }
    out += &format!("\n{rule}\n");
    match c.prompt.messages() {
        [] => out += &wrapped(c.prompt.last_text(), ""),
        messages => {
            for m in messages {
                out += &wrapped(&m.content, &format!("{}: ", m.role));
            }
        }
    }
    for (name, text) in [("1  left", shown.left), ("2  right", shown.right)] {
        out += &format!("{rule}\n{name}\n\n{}", wrapped(text.trim(), "   "));
    }
    out += &format!("{rule}\n1 left   2 right   t tie   s skip   u undo   r reason   q quit");
    if let Some(reason) = reason {
        out += &format!("\nreason: {}", visible(reason));
    }
    out
}

/// Text in lines of at most [`WIDTH`] columns, each of its own lines wrapped at spaces.
fn wrapped(text: &str, head: &str) -> String {
    let head = visible(head);
    let indent = " ".repeat(head.chars().count().min(12));
    let mut out = String::new();
    for (i, line) in visible(text).lines().enumerate() {
        let start = if i == 0 { head.clone() } else { indent.clone() };
        let mut column = start.chars().count();
        out += &start;
        for (k, word) in line.split(' ').enumerate() {
            let n = word.chars().count();
            if k > 0 && column + 1 + n > WIDTH {
                out += &format!("\n{indent}");
                column = indent.len();
            } else if k > 0 {
                out.push(' ');
                column += 1;
            }
            out += word;
            column += n;
        }
        out.push('\n');
    }
    if out.is_empty() { format!("{head}(empty)\n") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_lines_mean_the_same() {
        assert_eq!(Wish::of_key(&Key::ArrowLeft), Wish::of_line("1"));
        assert_eq!(Wish::of_key(&Key::Char('T')), Wish::Answer(Answer::Tie));
        assert_eq!(Wish::of_line(" r  it is kinder "), Wish::Reason(Some("it is kinder".into())));
        assert_eq!(Wish::of_line("12"), Wish::Unknown);
        assert_eq!(Wish::of_key(&Key::Char('\u{3}')), Wish::Quit);
    }

    #[test]
    fn text_is_wrapped_and_inert() {
        let text = wrapped(&format!("a\u{1b}[2J {}\nsecond", "word ".repeat(40)), "user: ");
        assert!(!text.contains('\u{1b}') && text.starts_with("user: a�[2J word"));
        assert!(text.lines().all(|l| l.chars().count() <= WIDTH), "{text}");
        assert!(text.ends_with("      second\n"), "{text}");
        assert_eq!(wrapped("", "   "), "   (empty)\n");
    }
}
