//! The tables of what each engine does say what the engines say.

use std::path::{Path, PathBuf};

use strait::Strait;
use strait::core::Offer;
use strait::core::events::Caps;

/// Set by `cargo xtask capabilities`: the tables are written instead of compared.
const WRITE: &str = "STRAIT_WRITE_CAPABILITIES";
/// Where the tables stand in their documents.
const BEGIN: &str = "<!-- capabilities:begin (cargo xtask capabilities) -->\n";
const END: &str = "<!-- capabilities:end -->";

/// What each engine says of itself before a server has answered: its features are those of the driver.
async fn engines() -> [(&'static str, Caps); 3] {
    let dir = tempfile::tempdir().unwrap();
    let file = format!("file:{}", dir.path().join("data").display());
    let found = [
        ("embedded", file.as_str()),
        ("Kafka", "kafka://127.0.0.1:1/?first_contact=0"),
        ("Redis, Valkey", "redis://127.0.0.1:1?first_contact=0"),
    ]
    .map(async |(name, url)| {
        let strait = Strait::open(url).await.unwrap();
        let caps = strait.events_lane().unwrap().caps();
        strait.close().await;
        (name, caps)
    });
    let [embedded, kafka, redis] = found;
    [embedded.await, kafka.await, redis.await]
}

/// A table with a row for each feature.
fn table(engines: &[(&str, Caps)], cell: impl Fn(Offer) -> String) -> String {
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let names = engines.iter().map(|(name, _)| (*name).to_owned());
    let mut text = row(std::iter::once("events".to_owned()).chain(names).collect());
    text.push_str(&format!("|{}\n", "---|".repeat(engines.len() + 1)));
    let columns: Vec<_> = engines.iter().map(|(_, caps)| caps.offers()).collect();
    for (index, (feature, _)) in columns[0].iter().enumerate() {
        let cells = columns.iter().map(|column| cell(column[index].1));
        text.push_str(&row(std::iter::once((*feature).to_owned())
            .chain(cells)
            .collect()));
    }
    text
}

fn short(offer: Offer) -> String {
    match offer {
        Offer::Native => "yes",
        Offer::Layered(_) => "layered",
        Offer::Refused(_) => "no",
    }
    .to_owned()
}

fn long(offer: Offer) -> String {
    match offer {
        Offer::Native => "yes".to_owned(),
        Offer::Layered(cost) => format!("layered: {cost}"),
        Offer::Refused(nearest) => format!("no: {nearest}"),
    }
}

/// The document, the text before its table, the table, and the text after.
fn document(name: &str) -> (PathBuf, [String; 3]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (table, after) = rest.split_once(END).unwrap();
    (path, [before, table, after].map(str::to_owned))
}

#[tokio::test]
async fn the_tables_of_the_documents_say_what_the_engines_say() {
    let engines = engines().await;
    let tables = [
        ("README.md", table(&engines, short)),
        ("docs/engines.md", table(&engines, long)),
    ];
    for (name, table) in tables {
        let (path, [before, found, after]) = document(name);
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        } else {
            assert_eq!(found, table, "{name}: run `cargo xtask capabilities`");
        }
    }
}
