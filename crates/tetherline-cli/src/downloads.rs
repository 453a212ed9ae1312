//! What fetching a model from the hub looks like: a bar of bytes where a person watches, a line per large file
//! elsewhere.

use crate::output;
use crate::progress::Show;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::Mutex;
use tetherline::hub::{Download, on_download};

/// Smaller files come and go without a line (bytes).
const WORTH_A_LINE: u64 = 10 << 20;

/// Shows every download of this process on stderr.
pub(crate) fn show(show: Show) {
    if show == Show::Warnings {
        return;
    }
    let bar: Mutex<Option<ProgressBar>> = Mutex::new(None);
    on_download(move |event| {
        // A panic elsewhere leaves a bar that can still be drawn.
        let mut bar = bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Download::Start { file, bytes, have } if show == Show::Bar => {
                let new = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
                let style = ProgressStyle::with_template(
                    "{wide_msg} {bar:24} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                );
                new.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                new.set_message(file.to_owned());
                new.set_position(have);
                *bar = Some(new);
            }
            Download::Start { file, bytes, have } if bytes >= WORTH_A_LINE => {
                let mib = |n: u64| n >> 20;
                let rest = if have > 0 { format!(", {} there", mib(have)) } else { String::new() };
                output::line(&format!("fetching {file} ({} MiB{rest})", mib(bytes)));
            }
            Download::Advance(bytes) => {
                if let Some(bar) = &*bar {
                    bar.inc(bytes);
                }
            }
            Download::End => {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
            }
            Download::Note(text) => match &*bar {
                Some(bar) => bar.suspend(|| output::line(text)),
                None => output::line(text),
            },
            _ => {}
        }
    });
}
