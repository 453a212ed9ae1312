//! `tether`: the Tetherline command line.
fn main() {}
