//! The suite of the events lane on this engine, in a directory and in memory; on one that can do next to nothing; and
//! mutants, which the suite must catch.

use std::process::ExitCode;
use std::sync::Arc;

use strait_conformance::{Suite, Target};

mod bends;
mod bends_dead;
mod bent;
mod modest;
mod mutants;
mod place;
mod steering;

fn main() -> ExitCode {
    let directory = Target::new("directory", || async {
        place::harness(Arc::new(bent::Straight))
    });
    let memory = Target::new("memory", || async {
        place::memory(Arc::new(bent::Straight))
    });
    let modest = Target::new("modest", || async {
        place::memory(Arc::new(modest::Modest))
    });
    let suites = Suite::new().events(directory).events(memory).events(modest);
    mutants::add_to(suites).run()
}
