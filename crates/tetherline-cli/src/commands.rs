//! What each command does with its flags.

mod audit;
mod compare;
mod data;
mod drift;
mod explain;
mod explain_config;
mod export;
mod gate;
mod generate;
mod init;
mod kl;
mod label;
mod plan;
mod policy;
mod report;
mod run;
mod score;
mod simulate;
mod sweep;

use crate::cli::{AuditCommand, Cli, Command, DataCommand, KlCommand};
use tetherline::Stages;
use tetherline_core::Stage;

/// Runs the command.
pub(crate) fn dispatch(cli: &Cli) -> anyhow::Result<()> {
    match &cli.command {
        Command::Run(args) => run::run(cli, args, Stages::All),
        Command::Plan(args) => plan::run(args),
        Command::ExplainConfig(args) => explain_config::run(args),
        Command::Sft(args) => run::run(cli, args, Stages::Only(Stage::Sft)),
        Command::Reward(args) => run::run(cli, args, Stages::Only(Stage::Reward)),
        Command::Ppo(args) => run::run(cli, args, Stages::Only(Stage::Ppo)),
        Command::Dpo(args) => run::run(cli, args, Stages::Only(Stage::Dpo)),
        Command::Eval(args) => run::run(cli, args, Stages::Only(Stage::Eval)),
        Command::Generate(args) => generate::run(cli, args),
        Command::Score(args) => score::run(cli, args),
        Command::Drift(args) => drift::run(cli, args),
        Command::Explain(args) => explain::run(cli, args),
        Command::Label(args) => label::run(cli, args),
        Command::Export(args) => export::run(cli, args),
        Command::Data(DataCommand::Check(args)) => data::check(args),
        Command::Kl(KlCommand::Control(args)) => kl::control(args),
        Command::Kl(KlCommand::Replay(args)) => kl::replayed(args),
        Command::Kl(KlCommand::Simulate(args)) => simulate::simulated(args),
        Command::Gate(args) => gate::run(args),
        Command::Audit(AuditCommand::Verify(args)) => audit::verify(args),
        Command::Audit(AuditCommand::Replay(args)) => audit::replay(args),
        Command::Policy(command) => policy::run(command),
        Command::Compare(args) => compare::run(cli, args),
        Command::Sweep(args) => sweep::run(cli, args),
        Command::Report(args) => report::run(args),
        Command::Init(args) => init::run(args),
    }
}

/// Says how many malformed lines were skipped, if any.
fn say_skipped(count: usize) {
    if count > 0 {
        crate::output::line(&format!(
            "warning: {count} {} skipped: malformed (`tether data check` lists them) or too long",
            if count == 1 { "line was" } else { "lines were" }
        ));
    }
}
