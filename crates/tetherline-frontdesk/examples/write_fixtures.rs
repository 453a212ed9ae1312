//! Writes the shipped files again: `cargo run -p tetherline-frontdesk --example write_fixtures -- [DIR]`.

use std::path::PathBuf;
use tetherline_frontdesk::{FrontdeskError, SEED, SHIPPED, World};

fn main() -> Result<(), FrontdeskError> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/frontdesk");
    let dir = std::env::args().nth(1).map_or_else(|| PathBuf::from(default), PathBuf::from);
    World::generate(SEED, SHIPPED).write_all(&dir)
}
