//! The node binary of Jaunt.
fn main() {}
