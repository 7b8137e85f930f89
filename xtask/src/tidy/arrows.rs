//! Which crate may import which: the arrows of docs/ARCHITECTURE.md, in one table.

use super::each_file;
use crate::cargo::Member;
use crate::rust_text::{code_only, line_of, matching, words};
use crate::tree::{Finding, Tree};
use std::path::{Path, PathBuf};

/// What one crate may import.
struct Arrows {
    name: &'static str,
    /// Crates of the workspace.
    imports: &'static [&'static str],
    /// More crates of the workspace, for tests only.
    in_tests: &'static [&'static str],
    /// Crates from outside that it must not import, because of what it is.
    never: &'static [&'static str],
}

/// Clients and servers of foreign systems: what the contract must stay free of.
const CLIENTS: &[&str] = &[
    "async-nats",
    "axum",
    "hyper",
    "lapin",
    "rdkafka",
    "redis",
    "reqwest",
    "sqlx",
    "tonic",
];

/// The table. A new crate gets a line here; an arrow that is not here is refused.
const TABLE: &[Arrows] = &[
    Arrows {
        name: "strait-core",
        imports: &[],
        in_tests: &[],
        never: CLIENTS,
    },
    Arrows {
        name: "strait-conformance",
        imports: &["strait-core"],
        in_tests: &[],
        never: &[],
    },
    Arrows {
        name: "strait-embedded",
        imports: &["strait-core"],
        in_tests: &["strait-conformance"],
        never: &[],
    },
    Arrows {
        name: "strait-member",
        imports: &["strait-core"],
        in_tests: &[],
        never: CLIENTS,
    },
    // Its tests need an engine behind the listener; the library sees engines through the contract only.
    Arrows {
        name: "strait-remote",
        imports: &["strait-core"],
        in_tests: &["strait-conformance", "strait-embedded"],
        never: &[],
    },
    Arrows {
        name: "strait-kafka",
        imports: &["strait-core", "strait-member"],
        in_tests: &["strait-conformance"],
        never: &[],
    },
    Arrows {
        name: "strait-redis",
        imports: &["strait-core", "strait-member"],
        in_tests: &["strait-conformance"],
        never: &[],
    },
    Arrows {
        name: "strait-macros",
        imports: &[],
        in_tests: &[],
        never: CLIENTS,
    },
    Arrows {
        name: "strait",
        imports: &[
            "strait-core",
            "strait-embedded",
            "strait-kafka",
            "strait-redis",
            "strait-remote",
            "strait-macros",
        ],
        in_tests: &["strait-conformance"],
        never: &[],
    },
    // `verify` and the bare-log figure of `bench` work on the files of a directory, below any engine. Its tests ask for servers.
    Arrows {
        name: "strait-cli",
        imports: &["strait", "strait-embedded"],
        in_tests: &["strait-conformance"],
        never: &[],
    },
    Arrows {
        name: "xtask",
        imports: &[],
        in_tests: &[],
        never: &[],
    },
];

/// Every arrow of the workspace must be in the table.
pub(super) fn check(members: &[Member]) -> Vec<Finding> {
    members.iter().flat_map(check_member).collect()
}

fn check_member(member: &Member) -> Vec<Finding> {
    let path = PathBuf::from(&member.name).join("Cargo.toml");
    let finding = |what: String| Finding {
        path: path.clone(),
        line: None,
        what,
    };
    let Some(arrows) = TABLE.iter().find(|arrows| arrows.name == member.name) else {
        return vec![finding(
            "this crate has no line in the table of xtask/src/tidy/arrows.rs".to_owned(),
        )];
    };
    let mut findings = Vec::new();
    for dependency in &member.dependencies {
        let name = dependency.name.as_str();
        let ours = TABLE.iter().any(|known| known.name == name) || name.starts_with("strait");
        let allowed = arrows.imports.contains(&name)
            || (dependency.dev && (arrows.in_tests.contains(&name) || name == member.name));
        if ours && !allowed {
            let kind = if dependency.dev { " in its tests" } else { "" };
            findings.push(finding(format!(
                "{} must not import {name}{kind}; it may import {:?}, in its tests also {:?}",
                member.name, arrows.imports, arrows.in_tests
            )));
        }
        if !dependency.dev && arrows.never.contains(&name) {
            findings.push(finding(format!(
                "{} is free of clients, so it must not import {name}",
                member.name
            )));
        }
    }
    findings
}

/// The lanes: state machines of the embedded engine that never import each other.
const LANES: [&str; 5] = ["events", "routes", "requests", "jobs", "workflows"];

/// Arrows inside the embedded engine: lanes do not see each other, and `disk` sees no lane.
pub(super) fn check_inside(tree: &Tree) -> Vec<Finding> {
    const SOURCE: &str = "crates/strait-embedded/src";
    let inside = tree
        .with_extension("rs")
        .filter(|path| path.starts_with(SOURCE));
    each_file(tree, inside, |path, text| {
        let module = first_module(path, Path::new(SOURCE));
        let is_lane = LANES.contains(&module.as_str());
        if !is_lane && module != "disk" {
            return Vec::new();
        }
        let code = code_only(text);
        let mut findings = Vec::new();
        for (at, lane) in imported_lanes(&code) {
            if lane != module {
                findings.push(Finding {
                    path: path.to_owned(),
                    line: Some(line_of(&code, at)),
                    what: format!("`{module}` must not import the lane `{lane}`"),
                });
            }
        }
        findings
    })
}

/// The lanes named after `crate::` or `super::`, alone or in a group.
fn imported_lanes(code: &str) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    for prefix in ["crate::", "super::"] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            let names = match rest.strip_prefix('{') {
                Some(_) => &rest[..matching(rest, 0)],
                None => rest
                    .split(|c: char| c != '_' && !c.is_alphanumeric())
                    .next()
                    .unwrap_or_default(),
            };
            for lane in LANES {
                if words(names, lane).next().is_some() {
                    found.push((at, lane));
                }
            }
        }
    }
    found
}

/// `events` for both `events.rs` and `events/groups.rs`.
fn first_module(path: &Path, source: &Path) -> String {
    path.strip_prefix(source)
        .ok()
        .and_then(|path| path.components().next())
        .map(|first| {
            let first = first.as_os_str().to_string_lossy();
            first.trim_end_matches(".rs").to_owned()
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo::Dependency;
    use crate::tree::fixture;

    fn member(name: &str, dependencies: &[(&str, bool)]) -> Member {
        Member {
            name: name.to_owned(),
            published: true,
            has_default_features: false,
            features: Vec::new(),
            dependencies: dependencies
                .iter()
                .map(|&(name, dev)| Dependency {
                    name: name.to_owned(),
                    dev,
                })
                .collect(),
            examples: Vec::new(),
        }
    }

    #[test]
    fn allowed_arrows_pass() {
        let members = [
            member(
                "strait-embedded",
                &[
                    ("strait-core", false),
                    ("tokio", false),
                    ("strait-conformance", true),
                ],
            ),
            member("strait-cli", &[("strait", false)]),
        ];
        assert_eq!(check(&members), []);
    }

    #[test]
    fn an_arrow_to_the_left_is_refused() {
        let found = check(&[member("strait-core", &[("strait", false)])]);
        assert_eq!(found.len(), 1);
        assert!(found[0].what.contains("must not import strait;"));
    }

    #[test]
    fn engines_do_not_see_each_other_and_conformance_is_for_tests_only() {
        let found = check(&[member(
            "strait-embedded",
            &[("strait-remote", true), ("strait-conformance", false)],
        )]);
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn an_unknown_crate_and_a_client_in_the_contract_are_refused() {
        let found = check(&[
            member("strait-extra", &[]),
            member("strait-core", &[("redis", false), ("axum", true)]),
        ]);
        assert_eq!(found.len(), 2);
        assert!(found[0].what.contains("no line in the table"));
        assert!(found[1].what.contains("redis"));
    }

    #[test]
    fn lanes_do_not_see_each_other() {
        let (_dir, tree) = fixture::tree(&[
            (
                "crates/strait-embedded/src/events/groups.rs",
                "// crate::routes\nuse crate::jobs::Job;\nuse crate::events::Topic;\n",
            ),
            (
                "crates/strait-embedded/src/disk/log.rs",
                "use crate::{commit::Record, events};\n",
            ),
            (
                "crates/strait-embedded/src/commit.rs",
                "use crate::{events, jobs};\n",
            ),
        ]);
        let found = check_inside(&tree);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[1].line, Some(2));
    }
}
