//! Opening, closing, configuration; an engine that offers less.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use strait::core::events::{self, Events};
use strait::core::{
    Backup, Claim, Claimed, Engine, EngineId, Fut, Health, Lanes, Offer, Outcome, Storage, Unit,
};
use strait::{Durability, Kind, Raw, Result, Strait, codes};
use tokio::sync::watch;

#[tokio::test]
async fn addresses_open_what_they_name() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file:{}", dir.path().join("data").display());
    let strait = Strait::open(&url).await.unwrap();
    assert_eq!(
        strait.events_lane().unwrap().caps().durability,
        Durability::Fsynced
    );
    let topic = strait.events().topic::<Raw>("notes").await.unwrap();
    topic.append(&Raw::bytes("x")).await.unwrap();
    strait.close().await;
    strait.close().await;
    let closed = topic.append(&Raw::bytes("y")).await.unwrap_err();
    assert_eq!(closed.kind(), Kind::Closed, "{closed:?}");

    let config = dir.path().join("strait.toml");
    std::fs::write(
        &config,
        "url = \"file:data\"\n[engine]\ndurability = \"os\"\n",
    )
    .unwrap();
    let strait = Strait::open(config.to_str().unwrap()).await.unwrap();
    assert_eq!(
        strait.events_lane().unwrap().caps().durability,
        Durability::Os
    );
    assert_eq!(
        strait.events().topics().await.unwrap().len(),
        1,
        "the same directory"
    );
    strait.close().await;

    let memory = Strait::open("memory:").await.unwrap();
    assert_eq!(
        memory.events_lane().unwrap().caps().durability,
        Durability::Memory
    );
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let error = Strait::open("nats://ada:s3cret@broker").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("file:DIR"), "{error}");
    assert!(!format!("{error:?}").contains("s3cret"));
    let error = Strait::open("/nowhere/strait.toml").await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(
        error.to_string().contains("/nowhere/strait.toml"),
        "{error}"
    );
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("strait.toml");
    std::fs::write(&config, "url = \"memory:\"\nurls = 1\n").unwrap();
    let error = Strait::open(config.to_str().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(
        error.to_string().contains("urls") && error.to_string().contains("line 2"),
        "{error}"
    );
}

/// The same engine behind a door that offers neither ledger nor atomic effects.
pub(crate) fn without_ledger(strait: Strait) -> Strait {
    Strait::on(Arc::new(Less(strait.engine().clone())))
}

#[derive(Debug)]
struct Less(Arc<dyn Engine>);

impl Engine for Less {
    fn id(&self) -> EngineId {
        self.0.id()
    }
    fn lanes(&self) -> Lanes {
        let events = self.0.lanes().events.unwrap();
        Lanes::none().with_events(Arc::new(LessEvents(events)))
    }
    fn health(&self) -> watch::Receiver<Health> {
        self.0.health()
    }
    fn commit(&self, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        self.0.commit(units)
    }
    fn claim(&self, _: Claim) -> Fut<Result<Claimed>> {
        Box::pin(async { Err(strait::Error::unsupported("a claim", "nothing")) })
    }
    fn backup(&self, to: PathBuf) -> Fut<Result<Backup>> {
        self.0.backup(to)
    }

    fn storage(&self) -> Fut<Result<Storage>> {
        self.0.storage()
    }
    fn close(&self, grace: Duration) -> Fut<()> {
        self.0.close(grace)
    }
}

#[derive(Debug)]
struct LessEvents(Arc<dyn Events>);

impl Events for LessEvents {
    fn caps(&self) -> events::Caps {
        events::Caps {
            ledger: Offer::Refused("an engine with a ledger: embedded"),
            atomic_effects: Offer::Refused("say `.at_least_once()`"),
            ..self.0.caps()
        }
    }
    fn declare(&self, topic: events::TopicSpec) -> Fut<Result<events::TopicInfo>> {
        self.0.declare(topic)
    }
    fn alter(
        &self,
        topic: strait::Name,
        change: events::TopicChange,
    ) -> Fut<Result<events::TopicInfo>> {
        self.0.alter(topic, change)
    }
    fn delete(&self, topic: strait::Name) -> Fut<Result<()>> {
        self.0.delete(topic)
    }
    fn topics(&self) -> Fut<Result<Vec<events::TopicInfo>>> {
        self.0.topics()
    }
    fn topic(&self, topic: strait::Name) -> Fut<Result<events::TopicInfo>> {
        self.0.topic(topic)
    }
    fn append(&self, append: events::Append) -> Fut<Result<strait::core::Sent>> {
        self.0.append(append)
    }
    fn read(&self, cursor: events::Cursor, max_bytes: usize) -> Fut<Result<strait::core::Chunk>> {
        self.0.read(cursor, max_bytes)
    }
    fn locate(
        &self,
        topic: strait::Name,
        partition: u32,
        start: strait::Start,
    ) -> Fut<Result<strait::Position>> {
        self.0.locate(topic, partition, start)
    }
    fn read_key(
        &self,
        read: events::ReadKey,
    ) -> Fut<Result<Vec<(events::KeyVersion, strait::core::Message)>>> {
        if read.limit > 100 {
            let error = strait::Error::new(Kind::Rejected, "the answer is too large");
            return Box::pin(async { Err(error.code(codes::TOO_LARGE)) });
        }
        self.0.read_key(read)
    }
    fn join(&self, group: events::GroupSpec) -> Fut<Result<strait::core::Consumer>> {
        self.0.join(group)
    }
    fn groups(&self) -> Fut<Result<Vec<events::GroupInfo>>> {
        self.0.groups()
    }
    fn group(&self, group: strait::Name, topic: strait::Name) -> Fut<Result<events::GroupInfo>> {
        self.0.group(group, topic)
    }
    fn alter_group(
        &self,
        group: strait::Name,
        topic: strait::Name,
        change: events::GroupChange,
    ) -> Fut<Result<events::GroupInfo>> {
        self.0.alter_group(group, topic, change)
    }
    fn seek(&self, seek: events::Seek) -> Fut<Result<strait::Position>> {
        self.0.seek(seek)
    }
    fn delete_group(&self, group: strait::Name, topic: strait::Name) -> Fut<Result<()>> {
        self.0.delete_group(group, topic)
    }
    fn dead_letters(
        &self,
        group: strait::Name,
        topic: strait::Name,
        filter: events::DeadFilter,
        from: u64,
        limit: usize,
    ) -> Fut<Result<Vec<events::DeadLetter>>> {
        self.0.dead_letters(group, topic, filter, from, limit)
    }
    fn dead_summary(
        &self,
        group: strait::Name,
        topic: strait::Name,
        filter: events::DeadFilter,
    ) -> Fut<Result<Vec<events::DeadSummary>>> {
        self.0.dead_summary(group, topic, filter)
    }
    fn edit_dead(&self, edit: events::EditDead) -> Fut<Result<()>> {
        self.0.edit_dead(edit)
    }
    fn remove_dead(&self, remove: events::RemoveDead) -> Fut<Result<u64>> {
        self.0.remove_dead(remove)
    }
    fn redrive(&self, redrive: events::Redrive) -> Fut<Result<events::Redriven>> {
        self.0.redrive(redrive)
    }
    fn undo_redrive(&self, undo: events::UndoRedrive) -> Fut<Result<events::Undone>> {
        self.0.undo_redrive(undo)
    }
    fn whereabouts(
        &self,
        topic: strait::Name,
        partition: u32,
        position: strait::Position,
    ) -> Fut<Result<events::Whereabouts>> {
        self.0.whereabouts(topic, partition, position)
    }
    fn set_aside(&self, aside: events::SetAside) -> Fut<Result<u64>> {
        self.0.set_aside(aside)
    }
}

#[tokio::test]
async fn the_locked_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let strait = Strait::embedded(dir.path()).await.unwrap();
    match Strait::embedded(dir.path()).await {
        // In one process the second one is refused, or shares the first; it never opens the files twice.
        Err(error) => assert!(error.is(codes::LOCKED), "{error:?}"),
        Ok(second) => assert_eq!(second.engine().id(), strait.engine().id()),
    }
}
