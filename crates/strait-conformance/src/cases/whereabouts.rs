//! Where one message is: in the log, and with each group.

use std::time::Duration;

use strait_core::events::{Standing, StuckOn, Whereabouts};
use strait_core::{Name, Position, Verdict, codes};

use super::{Case, Need, case};
use crate::fault::Check;
use crate::lab::{Lab, body, retry};

pub(super) fn cases() -> Vec<Case> {
    [
        case("where_stored", stored),
        case("where_with_a_group", with_a_group)
            .needs(Need::Groups)
            .needs(Need::Parking)
            .needs(Need::DeadLetters),
        case("where_behind_its_key", behind_its_key)
            .needs(Need::Groups)
            .needs(Need::Parking)
            .needs(Need::KeyOrder),
        case("where_unknown", unknown),
    ]
    .into_iter()
    .map(|case| case.needs(Need::Whereabouts))
    .collect()
}

async fn ask(lab: &Lab, topic: &Name, offset: u64) -> Check<Whereabouts> {
    let at = Position::at(offset);
    Ok(lab.events.whereabouts(topic.clone(), 0, at).await?)
}

async fn standing(lab: &Lab, topic: &Name, offset: u64) -> Check<Standing> {
    let mut found = ask(lab, topic, offset).await?.groups;
    check_eq!(found.len(), 1, "groups of the topic");
    Ok(found.remove(0).1)
}

/// Each record is found in its batch, and what is not there in none.
async fn stored(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["a=1", "a=2", "a=3"]).await?;
    lab.put(&topic, 0, &["b=1", "b=2"]).await?;
    let mut places = Vec::new();
    for offset in 0..5 {
        let found = ask(&lab, &topic, offset).await?.stored;
        let Some(stored) = found else {
            check!(false, "offset {offset} is not found");
            return Ok(());
        };
        let first = stored.first.offset();
        check!(
            (first..first + u64::from(stored.count)).contains(&offset),
            "offset {offset} is said to be in a batch of {} from {first} on",
            stored.count
        );
        check!(
            stored.len > 0 && !stored.file.is_empty(),
            "a place: {stored:?}"
        );
        places.push((stored.file, stored.at));
    }
    check!(
        places[0] != places[4],
        "two batches in one place: {places:?}"
    );
    for offset in [5, 1_000_000, u64::MAX] {
        let found = ask(&lab, &topic, offset).await?.stored;
        check_eq!(
            found,
            None,
            "the place of offset {offset}, which is not written"
        );
    }
    Ok(())
}

/// A group's standing goes from ahead to its end: settled, dead, or waiting with the reason.
async fn with_a_group(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    lab.put(&topic, 0, &["a=done", "b=dead", "c=later", "d=out"])
        .await?;
    for _ in 0..4 {
        let delivery = member.delivery().await?;
        match body(&delivery.message).as_str() {
            "done" => lab.done(delivery.receipt).await?,
            "dead" => {
                lab.settle(delivery.receipt, Verdict::Dead("no".into()))
                    .await?
            }
            "later" => {
                let later = retry(Duration::from_secs(3600));
                lab.settle(delivery.receipt, later).await?;
            }
            _ => {
                let Standing::Unsettled(stuck) = standing(&lab, &topic, 3).await? else {
                    check!(false, "what a member has is not unsettled");
                    return Ok(());
                };
                check_eq!(
                    stuck.on,
                    StuckOn::Member,
                    "what a message with a member waits for"
                );
                check_eq!(stuck.attempts, 1, "its attempts");
                lab.done(delivery.receipt).await?;
            }
        }
    }
    check_eq!(
        standing(&lab, &topic, 0).await?,
        Standing::Settled,
        "a settled message"
    );
    check_eq!(
        standing(&lab, &topic, 1).await?,
        Standing::Dead(0),
        "a dead letter"
    );
    let Standing::Unsettled(stuck) = standing(&lab, &topic, 2).await? else {
        check!(false, "a parked message is not unsettled");
        return Ok(());
    };
    check_eq!(
        stuck.offset,
        Position::at(2),
        "what a parked message waits for"
    );
    check!(
        matches!(&stuck.on, StuckOn::Retry { .. }),
        "a parked message waits for {:?}",
        stuck.on
    );
    drop(member);
    lab.put(&topic, 0, &["e=new"]).await?;
    check_eq!(
        standing(&lab, &topic, 4).await?,
        Standing::Ahead,
        "a message nobody got"
    );
    Ok(())
}

/// What waits behind an earlier message of its key names that one.
async fn behind_its_key(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let (_, mut member) = lab.consume(&topic).await?;
    lab.put(&topic, 0, &["a=1", "a=2"]).await?;
    let delivery = member.delivery().await?;
    let later = retry(Duration::from_secs(3600));
    lab.settle(delivery.receipt, later).await?;
    member.give_back("a").await?;
    // Handed out once more it is held back behind the first, or on its way to the member still, or it was never handed out.
    match standing(&lab, &topic, 1).await? {
        Standing::Ahead => {}
        Standing::Unsettled(stuck) => {
            let waits = match &stuck.on {
                StuckOn::Retry { .. } | StuckOn::Turn => true,
                StuckOn::Member => stuck.offset == Position::at(1),
                _ => false,
            };
            check!(waits, "it waits for {:?}", stuck.on);
        }
        other => check!(false, "it is {other:?}"),
    }
    check!(
        matches!(
            standing(&lab, &topic, 0).await?,
            Standing::Unsettled(stuck) if stuck.offset == Position::at(0)
        ),
        "the first of the key does not wait for itself"
    );
    Ok(())
}

/// A topic or a partition that does not exist is refused.
async fn unknown(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let at = Position::at(0);
    let missing = lab.name("missing")?;
    let answer = lab.events.whereabouts(missing, 0, at).await;
    let error = check_refused!(answer, NotFound, "a topic that does not exist");
    check!(error.is(codes::NO_SUCH_TOPIC), "its code: {error:?}");
    let answer = lab.events.whereabouts(topic, 7, at).await;
    check_refused!(answer, Rejected, "a partition that does not exist");
    Ok(())
}
