//! Many producers and members at once, by chance from a seed; then the history is checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use strait_core::events::{GroupInfo, GroupSpec};
use strait_core::{Kind, Name, partition_of};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Case, Need, case};
use crate::fault::{Check, Fault};
use crate::history::{self, Did, History, Stored};
use crate::lab::{Lab, batch, body};
use crate::rng::Rng;

mod worker;
use worker::Worker;

const PARTITIONS: u32 = 4;
const PRODUCERS: u64 = 4;
const MEMBERS: u64 = 3;
const MESSAGES: u32 = 60;
/// Of a storm: members, the gap, and how long a producer rests between two batches, in ms at most.
const STORM: (u64, u64, u64) = (10, 64, 200);
const MAX_ATTEMPTS: u32 = 6;
/// In so many times the target's patience all messages must have come to their end; below the limit of a case.
const DRAIN: u32 = 2;

pub(super) fn cases() -> Vec<Case> {
    [
        case("history_of_steady_members", |lab| {
            story(lab, 11, Churn::None)
        }),
        case("history_of_members_that_come_and_go", |lab| {
            story(lab, 12, Churn::Leave)
        }),
        case("history_of_members_that_die", |lab| {
            story(lab, 13, Churn::Die)
        }),
        case("history_over_reopens", |lab| story(lab, 14, Churn::Engine)).reopens(),
    ]
    .into_iter()
    .map(|case| {
        case.needs(Need::KeyOrder)
            .needs(Need::Parking)
            .needs(Need::DeadLetters)
            .needs(Need::AtomicEffects)
            .needs(Need::Fencing)
    })
    .collect()
}

/// What is unsteady.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Churn {
    /// Nothing but the verdicts.
    None,
    /// Members leave in order; others join.
    Leave,
    /// Members die, or go on as zombies; others join.
    Die,
    /// The engine is closed and opened three times.
    Engine,
}

/// How much of everything.
#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    churn: Churn,
    members: u64,
    /// Messages of each producer at most.
    messages: u32,
    /// How long producers go on at most.
    lasts: Duration,
    /// How long a producer rests, in ms at most.
    rest: u64,
    gap: Option<u64>,
}

/// What all workers of a run share.
#[derive(Clone)]
struct Stage {
    history: Arc<History>,
    /// The engine, as it is opened again.
    labs: watch::Receiver<Lab>,
    topic: Name,
    sink: Name,
    spec: GroupSpec,
    /// Nobody dies or leaves any more.
    calm: Arc<AtomicBool>,
}

impl Stage {
    fn lab(&self) -> Lab {
        self.labs.borrow().clone()
    }

    /// Waits for the next engine after this one was closed.
    async fn next_lab(&mut self) -> Check {
        self.labs.changed().await.map_err(Fault::new)
    }
}

/// Four producers and three members; every message that is acknowledged comes to one end, in order, with its effects.
async fn story(lab: Lab, seed: u64, churn: Churn) -> Check {
    let plan = Plan {
        seed,
        churn,
        members: MEMBERS,
        messages: MESSAGES,
        lasts: Duration::MAX,
        rest: 3,
        gap: None,
    };
    tell(vec![lab], plan).await.map(drop)
}

/// Ten members that come and go, die, and go on as zombies; one message in ten fails. Every message comes to one end, in order,
/// with its effects, and the gap holds.
pub(crate) async fn storm(labs: Vec<Lab>, seed: u64, lasts: Duration) -> Check<String> {
    let plan = Plan {
        seed,
        churn: Churn::Die,
        members: STORM.0,
        messages: u32::MAX,
        lasts,
        rest: STORM.2,
        gap: Some(STORM.1),
    };
    let history = tell(labs, plan).await?;
    let count = |of: fn(&Did) -> bool| {
        let events = history.events();
        events.iter().filter(|event| of(&event.did)).count()
    };
    let members: std::collections::BTreeSet<String> = history
        .events()
        .into_iter()
        .map(|event| event.who)
        .collect();
    Ok(format!(
        "{} messages, {} deliveries, {} lives of members",
        count(|did| matches!(did, Did::Appended { .. })),
        count(|did| matches!(did, Did::Delivered { .. })),
        members
            .iter()
            .filter(|who| who.starts_with("member"))
            .count(),
    ))
}

/// Members and producers work until all is handled; what they saw is held against what is stored. Members take the engines in
/// turn.
async fn tell(labs: Vec<Lab>, plan: Plan) -> Check<Arc<History>> {
    let Some(lab) = labs.first().cloned() else {
        return Err(Fault::new("no engine was given"));
    };
    let (topic, sink) = (lab.topic(PARTITIONS).await?, lab.topic(1).await?);
    let mut spec = GroupSpec {
        max_attempts: MAX_ATTEMPTS,
        ..lab.spec(&topic)?
    };
    spec.gap = plan.gap.unwrap_or(spec.gap);
    let engines: Vec<_> = labs.into_iter().map(watch::channel).collect();
    let stages: Vec<Stage> = {
        let history = Arc::new(History::new());
        let calm = Arc::new(AtomicBool::new(false));
        let stage = |labs: &watch::Receiver<Lab>| Stage {
            history: history.clone(),
            labs: labs.clone(),
            topic: topic.clone(),
            sink: sink.clone(),
            spec: spec.clone(),
            calm: calm.clone(),
        };
        engines.iter().map(|(_, labs)| stage(labs)).collect()
    };
    let stage = stages[0].clone();
    // The group is there before anybody asks for its lag.
    drop(lab.consume_as(&stage.spec).await?);
    let (stop, stopped) = watch::channel(false);
    let mut workers = JoinSet::new();
    for (number, stage) in (0..plan.members).zip(stages.iter().cycle()) {
        let rng = Rng::new(plan.seed * 100 + number);
        let worker = Worker::new(number, plan.churn, rng, stage.clone(), stopped.clone());
        workers.spawn(worker.run());
    }
    let mut producers = JoinSet::new();
    for number in 0..PRODUCERS {
        let rng = Rng::new(plan.seed * 1_000 + number);
        producers.spawn(produce(number, rng, stage.clone(), plan));
    }
    let mut lab = lab;
    if plan.churn == Churn::Engine {
        reopen_three_times(&mut lab, &engines[0].0).await?;
    }
    while let Some(ended) = producers.join_next().await {
        ended.map_err(Fault::new)??;
    }
    // A storm ends: how much is left when it does is not bounded.
    stage.calm.store(plan.gap.is_some(), Ordering::Relaxed);
    let owing = drain(&lab, &stage, &mut workers).await;
    stop.send_replace(true);
    while let Some(ended) = workers.join_next().await {
        ended.map_err(Fault::new)??;
    }
    judge(&lab, &stage, &owing?, plan.gap).await?;
    Ok(stage.history)
}

async fn reopen_three_times(lab: &mut Lab, engine: &watch::Sender<Lab>) -> Check {
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        lab.reopen().await?;
        engine.send_replace(lab.clone());
    }
    Ok(())
}

/// Waits until the group owes nothing, or the time is over; gives the group's state then.
async fn drain(lab: &Lab, stage: &Stage, workers: &mut JoinSet<Check>) -> Check<GroupInfo> {
    let deadline = tokio::time::Instant::now() + lab.patience * DRAIN;
    loop {
        let info = lab.group(&stage.spec).await?;
        if info.lag() == 0 || tokio::time::Instant::now() > deadline {
            return Ok(info);
        }
        if let Some(ended) = workers.try_join_next() {
            ended.map_err(Fault::new)??;
            return Err(Fault::new("a member ended before all was handled"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn judge(lab: &Lab, stage: &Stage, info: &GroupInfo, gap: Option<u64>) -> Check {
    let mut stored = Stored {
        lag: info.lag(),
        max_attempts: MAX_ATTEMPTS,
        gap,
        effects: lab.bodies(&stage.sink, 0).await?,
        ..Stored::default()
    };
    for partition in 0..PARTITIONS {
        for message in lab.all(&stage.topic, partition).await? {
            let place = (partition, message.position());
            stored.log.insert(place, body(&message));
        }
    }
    for letter in lab.dead(&stage.spec).await? {
        stored.dead.push((body(&letter.message), letter.attempts));
    }
    let found = history::check(&stage.history.events(), &stored);
    if let Some(first) = found.first() {
        let more = found.len() - 1;
        return Err(Fault::new(format!("{first}\n  and {more} more")));
    }
    check_eq!(
        info.lag(),
        0,
        "messages that the group still owes, {info:?}"
    );
    Ok(())
}

/// Appends messages with a few keys of its own, each key always to its partition, one batch after the other.
async fn produce(number: u64, mut rng: Rng, mut stage: Stage, plan: Plan) -> Check {
    let (mut next, began) = (0, std::time::Instant::now());
    while next < plan.messages && began.elapsed() < plan.lasts {
        let key = format!("k{number}-{}", rng.below(4));
        let partition = partition_of(key.as_bytes(), PARTITIONS);
        let texts: Vec<String> = (0..=rng.below(3))
            .map(|_| {
                next += 1;
                format!("{number}.{next}")
            })
            .collect();
        let keyed: Vec<String> = texts.iter().map(|text| format!("{key}={text}")).collect();
        let keyed: Vec<&str> = keyed.iter().map(String::as_str).collect();
        let sent = match stage
            .lab()
            .append(&stage.topic, partition, batch(&keyed)?)
            .await
        {
            Ok(sent) => sent,
            Err(error) if error.kind() == Kind::Closed => {
                stage.next_lab().await?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let (high, low) = sent.first.parts();
        for (i, text) in (0..).zip(texts) {
            let place = (partition, strait_core::Position::of_parts(high, low + i));
            let key = key.clone();
            let who = format!("producer {number}");
            stage.history.add(who, Did::Appended { text, key, place });
        }
        if rng.percent(30) {
            tokio::time::sleep(Duration::from_millis(rng.below(plan.rest))).await;
        }
    }
    Ok(())
}
