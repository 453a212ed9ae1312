//! The one place where an error becomes an exit code.

use tetherline::ErrorKind;

/// Something failed: disk, memory, a bug; or what was checked did not pass.
const FAILED: u8 = 1;
/// The command line or the recipe is wrong. (Also what clap exits with.)
const USAGE: u8 = 2;
/// A data file or a model that was given cannot be used.
const INPUT: u8 = 3;
/// Training stopped itself: a loss was not a number, or the self-test failed.
const STOPPED: u8 = 4;
/// What was measured is over a limit that was given.
const OVER_LIMIT: u8 = 5;
/// Interrupted by the user, as shells report it: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Shown at the end of `tether --help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0    done
  1    failed (disk, memory, a bug), or a gate, an audit or a promotion did not pass
  2    wrong usage or a wrong recipe
  3    a data file or model cannot be used
  4    training stopped itself (a loss was not a number, the self-test failed)
  5    a KL is over the limit that was given (tether drift)
  130  interrupted; after one Ctrl-C a checkpoint is saved first";

/// A command was used in a way that cannot work.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// What was checked did not pass.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) String);

/// What was measured is over a limit that was given.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct OverLimit(pub(crate) String);

/// A file that was given is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InputError(pub(crate) String);

/// The exit code of an error.
pub(crate) fn of(error: &anyhow::Error) -> u8 {
    if let Some(e) = error.downcast_ref::<tetherline::Error>() {
        return match e.kind() {
            ErrorKind::Failed => FAILED,
            ErrorKind::Usage => USAGE,
            ErrorKind::Input => INPUT,
            ErrorKind::Stopped => STOPPED,
            ErrorKind::Interrupted => INTERRUPTED,
        };
    }
    if error.is::<tetherline::RecipeError>() || error.is::<UsageError>() {
        return USAGE;
    }
    if error.is::<tetherline_data::DataError>() || error.is::<InputError>() {
        return INPUT;
    }
    if error.is::<OverLimit>() {
        return OVER_LIMIT;
    }
    FAILED
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetherline::Error;
    use tetherline_core::Stage;

    #[test]
    fn every_kind_of_error_has_its_code() {
        let stopped = Error::SelfTest { cause: "the first ratio is 1.2".into() };
        let interrupted = Error::Interrupted { stage: Stage::Ppo, step: 3, checkpoint: None };
        assert_eq!(of(&Error::input("x", "y").into()), 3);
        assert_eq!(of(&stopped.into()), 4);
        assert_eq!(of(&interrupted.into()), 130);
        assert_eq!(of(&Error::stage(Stage::Ppo)("disk full").into()), 1);
        assert_eq!(of(&UsageError("no".into()).into()), 2);
        assert_eq!(of(&InputError("no".into()).into()), 3);
        assert_eq!(of(&OverLimit("5 > 4".into()).into()), 5);
        assert_eq!(of(&tetherline::Recipe::load("nope", &[]).unwrap_err().into()), 2);
        assert_eq!(of(&Refused("no".into()).into()), 1);
        assert_eq!(of(&anyhow::anyhow!("anything else")), 1);
    }

    #[test]
    fn the_help_lists_every_code() {
        for code in [0, FAILED, USAGE, INPUT, STOPPED, OVER_LIMIT, INTERRUPTED] {
            assert!(HELP.contains(&format!("\n  {code} ")), "{code}");
        }
    }
}
