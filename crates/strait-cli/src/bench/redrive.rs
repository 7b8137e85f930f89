//! A redrive: how fast dead letters come back and are handled again, in the order of their keys.

use std::collections::HashMap;
use std::future::poll_fn;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use strait::core::events::{Append, DeadFilter, Expected, GroupSpec, Redrive};
use strait::core::{
    Arrival, Consumer, Delivery, Engine, NewRecord, Outcome as Settled, Receipt, RecordsBuilder,
    Unit, Verdict,
};

use super::*;

/// Keys of each partition.
const KEYS: u64 = 1_000;
/// Commits under way.
const COMMITS: usize = 8;
/// Messages and bytes that a member takes at once.
const ITEMS: usize = 4_096;
const BYTES: usize = 4 << 20;

#[derive(Debug, Serialize)]
pub(super) struct Redriven {
    redriven: u64,
    /// From the request to the durable settle of the last one.
    redrive_messages_per_second: f64,
    /// Until all of them were due again.
    redrive_request_s: f64,
}

impl Redriven {
    pub(super) fn in_words(&self) -> String {
        format!(
            "redrive   {} messages/s, {} of them, in the order of their keys\n",
            count(self.redrive_messages_per_second as u64, true),
            count(self.redriven, true)
        )
    }
}

/// Appends keyed messages, gives all of them up, redrives them and settles each.
pub(super) async fn run(
    args: &BenchArgs,
    messages: u64,
    strait: &Strait,
    events: &Arc<dyn Events>,
    topic: &Name,
) -> Outcome<Redriven> {
    fill(args, messages, events, topic).await?;
    let group: Name = "bench".parse()?;
    let spec = GroupSpec {
        gap: u64::MAX,
        max_dead: u64::MAX,
        lease: Duration::from_secs(600),
        ..GroupSpec::new(group.clone(), topic.clone())
    };
    let mut member = events.join(spec).await?;
    let engine = &**strait.engine();
    settle(engine, &mut member, messages, &|| {
        Verdict::Dead("the bench gave it up".into())
    })
    .await?;
    let start = Instant::now();
    let redrive = Redrive::new(group, topic.clone(), DeadFilter::default());
    let asked = async {
        let done = events.redrive(redrive).await;
        done.map(|done| (done, start.elapsed()))
    };
    let handled = settle(engine, &mut member, messages, &|| Verdict::Done);
    let (asked, handled) = tokio::join!(asked, handled);
    let ((done, request), ()) = (asked?, handled?);
    let seconds = start.elapsed().as_secs_f64();
    Ok(Redriven {
        redriven: done.count,
        redrive_messages_per_second: (done.count as f64 / seconds).round(),
        redrive_request_s: (request.as_secs_f64() * 1000.0).round() / 1000.0,
    })
}

async fn fill(args: &BenchArgs, messages: u64, events: &Arc<dyn Events>, topic: &Name) -> Outcome {
    let body = vec![b'x'; args.size as usize];
    let partitions = u64::from(args.partitions);
    let mut appends = FuturesUnordered::new();
    let mut first = 0;
    while first < messages {
        let end = messages.min(first + u64::from(args.batch));
        let partition = (first / u64::from(args.batch)) % partitions;
        let mut records = RecordsBuilder::new(&[])?;
        for number in first..end {
            let key = format!("{partition}-{}", number % KEYS);
            records.push(NewRecord {
                key: Some(key.as_bytes()),
                body: &body,
                ..NewRecord::default()
            })?;
        }
        appends.push(events.append(Append {
            topic: topic.clone(),
            partition: partition as u32,
            records: records.build(),
            expected: Expected::Any,
            dedupe: false,
        }));
        if appends.len() >= args.producers as usize
            && let Some(sent) = appends.next().await
        {
            sent?;
        }
        first = end;
    }
    while let Some(sent) = appends.next().await {
        sent?;
    }
    Ok(())
}

/// Takes so many messages and ends each in the verdict; refuses a message of a key that comes after a later one.
async fn settle(
    engine: &dyn Engine,
    member: &mut Consumer,
    messages: u64,
    verdict: &dyn Fn() -> Verdict,
) -> Outcome {
    let mut commits = FuturesUnordered::new();
    let mut last: HashMap<Vec<u8>, u64> = HashMap::new();
    let mut settled = 0;
    while settled < messages {
        let arrival = poll_fn(|cx| member.source.poll_next(cx, ITEMS, BYTES)).await?;
        let receipts = match arrival {
            Arrival::Run(_, receipt) => vec![receipt],
            Arrival::Each(each) => in_order(each, &mut last)?,
            Arrival::End => return Err(Error::closed("the group").into()),
            _ => continue,
        };
        settled += receipts.iter().map(|r| u64::from(r.count())).sum::<u64>();
        let units = receipts
            .into_iter()
            .map(|receipt| Unit::settle(receipt, verdict()));
        commits.push(engine.commit(units.collect()));
        if commits.len() >= COMMITS
            && let Some(outcomes) = commits.next().await
        {
            check(outcomes)?;
        }
    }
    while let Some(outcomes) = commits.next().await {
        check(outcomes)?;
    }
    Ok(())
}

/// The receipts of neighbours as one.
fn in_order(each: Vec<Delivery>, last: &mut HashMap<Vec<u8>, u64>) -> Outcome<Vec<Receipt>> {
    let mut receipts: Vec<Receipt> = Vec::new();
    for delivery in each {
        let offset = delivery.message.position().offset();
        let key = delivery.message.record().key().unwrap_or_default();
        let before = match last.get_mut(key) {
            Some(before) => std::mem::replace(before, offset),
            None => last.insert(key.to_vec(), offset).unwrap_or_default(),
        };
        if before > offset {
            let text = format!("offset {offset} came after {before} of its key");
            return Err(Error::new(Kind::Unexpected, text).into());
        }
        let alone = match receipts.last_mut() {
            Some(receipt) => receipt.join(delivery.receipt).err(),
            None => Some(delivery.receipt),
        };
        receipts.extend(alone);
    }
    Ok(receipts)
}

fn check(outcomes: Vec<Settled>) -> Outcome {
    for outcome in outcomes {
        match outcome {
            Settled::Applied(_) | Settled::Seen(_) => {}
            Settled::NotApplied(_, error) | Settled::Unknown(error) => return Err(error.into()),
            Settled::Fenced => {
                return Err(Error::new(Kind::Unexpected, "a lease was lost").into());
            }
        }
    }
    Ok(())
}
