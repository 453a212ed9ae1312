//! The recipes that ship inside the binary: `tether run NAME`, `tether init --preset NAME`.

/// A recipe that ships inside the binary.
#[derive(Clone, Copy, Debug)]
pub struct Embedded {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// The commented TOML text.
    pub text: &'static str,
}

/// Every embedded recipe, the default first.
pub const EMBEDDED: &[Embedded] = &[
    Embedded {
        name: "quickstart",
        about: "the embedded frontdesk world, SFT to report, under an adaptive KL controller",
        text: include_str!("../../../../recipes/quickstart.toml"),
    },
    Embedded {
        name: "trl-parity",
        about: "PPO with the choices of TRL's PPOTrainer, for comparing curves",
        text: include_str!("../../../../recipes/trl-parity.toml"),
    },
    Embedded {
        name: "word-reward",
        about: "any causal model, a keyword rule as the reward, no reward model",
        text: include_str!("../../../../recipes/word-reward.toml"),
    },
    Embedded {
        name: "chat",
        about: "a chat model from your own conversations and preference pairs",
        text: include_str!("../../../../recipes/chat.toml"),
    },
];

/// The embedded recipe of this name.
pub fn embedded(name: &str) -> Option<&'static Embedded> {
    EMBEDDED.iter().find(|e| e.name == name)
}

/// All names, for messages.
pub(super) fn names() -> String {
    EMBEDDED.iter().map(|e| e.name).collect::<Vec<_>>().join(", ")
}
