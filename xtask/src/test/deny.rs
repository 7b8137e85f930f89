//! cargo-deny over `deny.toml`: bans, licences and sources of everything that is linked in.

use super::{Context, Outcome, answers, cargo, counts};

/// Uses cargo-deny where it is installed. Building it takes longer than all other stages, so it is not
/// installed here; advisories need the network and are left to a scheduled run.
pub(super) fn run(context: &mut Context) -> Outcome {
    if !answers(cargo(&context.root).args(["deny", "--version"])) {
        return Outcome::Skipped(
            "cargo-deny is not installed (cargo install cargo-deny --locked)".to_owned(),
        );
    }
    let mut command = cargo(&context.root);
    command.args(["deny", "check", "bans", "licenses", "sources"]);
    counts::succeed(&mut command).into()
}
