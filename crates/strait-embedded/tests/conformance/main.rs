//! The suite of the events lane on this engine, in a directory and in memory; on one that can do next to nothing; and
//! mutants, which the suite must catch.

use std::process::ExitCode;
use std::sync::Arc;

use strait_conformance::{Harness, Suite, Target};
use strait_embedded::Embedded;

mod bends;
mod bent;
mod modest;
mod mutants;
mod place;

fn main() -> ExitCode {
    let directory = Target::new("directory", || async {
        place::harness(Arc::new(bent::Straight))
    });
    let memory = Target::new("memory", || async {
        Ok(Harness::new(Embedded::memory(place::options())?))
    });
    let modest = Target::new("modest", || async {
        let engine = Embedded::memory(place::options())?;
        let bent = bent::Bent::new(engine, Arc::new(modest::Modest));
        Ok(Harness::new(Arc::new(bent)))
    });
    let suites = Suite::new().events(directory).events(memory).events(modest);
    mutants::add_to(suites).run()
}
