//! The `strait` command.

fn main() {}
