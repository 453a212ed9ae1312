//! Prints pretraining dialogues: `cargo run -p tetherline-frontdesk --example pretrain -- [N]`.
#![expect(clippy::print_stdout, reason = "an example that prints text")]

use tetherline_frontdesk::{SEED, pretrain_dialogues};

fn main() {
    let n = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(10);
    for (prompt, response) in pretrain_dialogues(SEED, n) {
        println!("{prompt}\t{response}");
    }
}
