//! Many messages that wait for their next attempt.

use std::sync::Arc;
use std::time::{Duration, Instant};

use strait_core::events::{GroupInfo, GroupSpec, Order, Waits};
use strait_core::{Arrival, Engine, Name, Unit};

use crate::fault::{Check, Fault};
use crate::lab::{Lab, QUIET, batch, retry};
use crate::target::Harness;

/// Messages that are appended, and that are taken, together.
const TOGETHER: u32 = 500;
/// No message is due before a test is over.
const LATER: Duration = Duration::from_secs(24 * 3600);

/// Parks `count` messages of one partition and looks that nothing is lost, and that the bound holds.
///
/// Without order all of them are held, and a message behind them comes at once; so it is for a member on another engine that takes
/// the partition over. With order by key the partition stands at the gap, `count / 10`, and says for which message.
///
/// `engines` are two, on one store; they stay open. `patience` is how long to wait for what must come. Gives in a line how long it
/// took.
///
/// # Errors
///
/// The first broken promise, or what the engine answered.
pub async fn parked(
    engines: &[Arc<dyn Engine>; 2],
    count: u32,
    patience: Duration,
) -> Check<String> {
    let lab = |engine: &Arc<dyn Engine>| Lab::of(Harness::new(engine.clone()), "parked", patience);
    let (one, other) = (lab(&engines[0])?, lab(&engines[1])?);
    let topic = one.topic(1).await?;
    for first in (0..count).step_by(TOGETHER as usize) {
        let texts: Vec<String> = (first..count.min(first + TOGETHER))
            .map(|number| format!("k{number}={number}"))
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        one.append(&topic, 0, batch(&texts)?).await?;
    }
    let began = Instant::now();
    without_order(&one, &other, &topic, count).await?;
    let free = began.elapsed();
    let began = Instant::now();
    in_order(&one, &topic, count).await?;
    Ok(format!(
        "{count} parked without order in {free:?}, {} of them in order in {:?}",
        count / 10,
        began.elapsed()
    ))
}

async fn without_order(one: &Lab, other: &Lab, topic: &Name, count: u32) -> Check {
    let spec = GroupSpec {
        order: Order::Free,
        gap: u64::from(count) * 2,
        ..one.spec(topic)?
    };
    let mut consumer = one.events.join(spec.clone()).await?;
    park(one, &mut consumer, count).await?;
    all_held(&one.group(&spec).await?, count)?;
    one.put(topic, 0, &["behind"]).await?;
    let taken = take(one, &mut consumer).await?;
    check_eq!(taken.settle.len(), 1, "receipts for what is behind them");
    // It is not settled: the next member gets it too.
    drop(taken);
    consumer.control.leave();
    drop(consumer);
    let mut next = other.events.join(spec.clone()).await?;
    let mut unit = take(other, &mut next).await?;
    let messages: u32 = unit.settle.iter().map(|(receipt, _)| receipt.count()).sum();
    check_eq!(messages, 1, "messages for the member that took over");
    unit.settle
        .iter_mut()
        .for_each(|(_, verdict)| *verdict = strait_core::Verdict::Done);
    other.apply(unit).await?;
    let quiet = tokio::time::timeout(QUIET, take(other, &mut next)).await;
    check!(quiet.is_err(), "something came before it was due");
    all_held(&other.group(&spec).await?, count)
}

fn all_held(info: &GroupInfo, count: u32) -> Check {
    let count = u64::from(count);
    check_eq!(
        (info.parked(), info.lag()),
        (count, count),
        "parked, and owed"
    );
    check_eq!(info.shards[0].waits, None, "what it waits for");
    Ok(())
}

async fn in_order(lab: &Lab, topic: &Name, count: u32) -> Check {
    let gap = count / 10;
    let spec = GroupSpec {
        gap: u64::from(gap),
        ..lab.spec(topic)?
    };
    let mut consumer = lab.events.join(spec.clone()).await?;
    park(lab, &mut consumer, gap).await?;
    let more = tokio::time::timeout(QUIET, take(lab, &mut consumer)).await;
    check!(more.is_err(), "something came behind the gap");
    let info = lab
        .group_until(&spec, "the gap", |info| info.shards[0].waits.is_some())
        .await?;
    check_eq!(info.parked(), u64::from(gap), "parked");
    // One that is behind them was settled by nobody.
    check_eq!(info.lag(), u64::from(count) + 1, "owed");
    match &info.shards[0].waits {
        Some(Waits::Gap(_)) => Ok(()),
        other => Err(Fault::new(format!("it was to stand at its gap: {other:?}"))),
    }
}

/// Sends so many messages back.
async fn park(lab: &Lab, consumer: &mut strait_core::Consumer, count: u32) -> Check {
    let mut left = count;
    while left > 0 {
        let unit = take(lab, consumer).await?;
        let taken: u32 = unit.settle.iter().map(|(receipt, _)| receipt.count()).sum();
        check!(taken <= left, "{taken} came where {left} were left");
        left -= taken;
        lab.apply(unit).await?;
    }
    Ok(())
}

/// The next messages, to be sent back.
async fn take(lab: &Lab, consumer: &mut strait_core::Consumer) -> Check<Unit> {
    loop {
        let next = consumer.next(TOGETHER as usize, 1 << 20);
        let next = tokio::time::timeout(lab.patience, next).await;
        let receipts = match next.map_err(|_| Fault::new("nothing came"))?? {
            Arrival::Run(_, receipt) => vec![receipt],
            Arrival::Each(each) => each.into_iter().map(|delivery| delivery.receipt).collect(),
            Arrival::End => return Err(Fault::new("the consumer ended")),
            _ => continue,
        };
        let mut unit = Unit::default();
        unit.settle
            .extend(receipts.into_iter().map(|receipt| (receipt, retry(LATER))));
        return Ok(unit);
    }
}
