//! Ctrl-C (or SIGTERM): once asks the run to save and stop, twice ends the process.

use crate::{exit_codes, output};
use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C is a request first. For commands that can save what they have.
pub(crate) fn install() {
    // Fails only where a handler is there already; then Ctrl-C ends the process as usual.
    let _ = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(exit_codes::INTERRUPTED));
        }
        output::line("stopping after this step; a checkpoint will be saved (Ctrl-C again stops at once)");
    });
}

/// Whether Ctrl-C was pressed.
pub(crate) fn requested() -> bool {
    STOP.load(Ordering::SeqCst)
}
