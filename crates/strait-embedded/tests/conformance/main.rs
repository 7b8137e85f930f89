//! The suite of the events lane on this engine, in a directory and in memory; and mutants, which the suite must catch.

use std::process::ExitCode;
use std::sync::Arc;

use strait_conformance::{Harness, Suite, Target};
use strait_embedded::{Embedded, Options};

mod bends;
mod bent;
mod mutants;
mod place;

fn main() -> ExitCode {
    let directory = Target::new("directory", || async {
        place::harness(Arc::new(bent::Straight))
    });
    let memory = Target::new("memory", || async {
        Ok(Harness::new(Embedded::memory(Options::default())?))
    });
    mutants::add_to(Suite::new().events(directory).events(memory)).run()
}
