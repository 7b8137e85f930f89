//! Order by key, through retries, drops, moves and reopens; and the choice to do without.

use std::collections::VecDeque;
use std::time::Duration;

use strait_core::events::{GroupSpec, Order};
use strait_core::{Delivery, Name, Unit, Verdict};

use super::{Case, Need, case};
use crate::fault::Check;
use crate::lab::{Lab, QUIET, body, key, retry};
use crate::member::{Member, Seen};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("order_free_passes_a_parked_one", free_passes).needs(Need::Parking),
        case("order_through_a_retry", through_a_retry)
            .needs(Need::KeyOrder)
            .needs(Need::Parking),
        case("order_other_keys_flow", other_keys_flow)
            .needs(Need::KeyOrder)
            .needs(Need::Parking),
        case("order_later_appends_wait", later_appends_wait)
            .needs(Need::KeyOrder)
            .needs(Need::Parking),
        case("order_through_many_retries", through_many_retries)
            .needs(Need::KeyOrder)
            .needs(Need::Parking),
        case("order_through_releases", through_releases).needs(Need::KeyOrder),
        case("order_one_at_a_time", one_at_a_time)
            .needs(Need::KeyOrder)
            .needs(Need::Parking),
        case("order_through_drops", through_drops).needs(Need::KeyOrder),
        case("order_without_key", without_key).needs(Need::Parking),
        case("order_through_a_move", through_a_move)
            .needs(Need::KeyOrder)
            .needs(Need::Parking),
        case("order_through_a_reopen", through_a_reopen)
            .reopens()
            .needs(Need::KeyOrder)
            .needs(Need::Parking),
        case("order_goes_on_after_death", after_death)
            .needs(Need::KeyOrder)
            .needs(Need::DeadLetters),
        case("order_of_two_keys_parked", two_keys_parked)
            .needs(Need::KeyOrder)
            .needs(Need::Parking),
        case("order_parked_key_counts_in_the_gap", counts_in_the_gap)
            .needs(Need::KeyOrder)
            .needs(Need::Parking),
    ]
}

async fn join(lab: &Lab, topic: &Name, order: Order) -> Check<(GroupSpec, Member)> {
    let spec = GroupSpec {
        order,
        max_attempts: 100,
        ..lab.spec(topic)?
    };
    let member = lab.consume_as(&spec).await?;
    Ok((spec, member))
}

/// Ends the first delivery of `held` with a verdict, and releases those of its key behind it, in one unit.
async fn end_and_release(lab: &Lab, held: &mut VecDeque<Delivery>, verdict: Verdict) -> Check {
    let Some(first) = held.pop_front() else {
        return Ok(());
    };
    let of = key(&first.message);
    let mut unit = Unit::settle(first.receipt, verdict);
    let (same, rest): (Vec<_>, Vec<_>) = std::mem::take(held)
        .into_iter()
        .partition(|delivery| key(&delivery.message) == of);
    let released = same.into_iter().map(|d| (d.receipt, Verdict::Release));
    unit.settle.extend(released);
    held.extend(rest);
    lab.apply(unit).await.map(drop)
}

/// Without order a message passes an earlier one of its key that is parked.
async fn free_passes(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=1"]).await?;
    let (_, mut member) = join(&lab, &topic, Order::Free).await?;
    let first = member.delivery().await?;
    lab.settle(first.receipt, retry(Duration::from_secs(600)))
        .await?;
    lab.put(&topic, 0, &["ada=2", "ada=3"]).await?;
    check_eq!(member.drain(2).await?, ["2", "3"], "deliveries");
    Ok(())
}

/// After a retry the key goes on in order, with its attempt counted and those of the others not.
async fn through_a_retry(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let texts = ["ada=1", "ada=2", "bob=x", "ada=3", "bob=y"];
    lab.put(&topic, 0, &texts).await?;
    let (_, mut member) = join(&lab, &topic, Order::Key).await?;
    let mut held: VecDeque<_> = member.take(1).await?.into();
    while held.len() < 5 {
        // An engine may hand out one message of a key at a time.
        match member.within(QUIET).await? {
            Some(Seen::Delivery(delivery)) => held.push_back(*delivery),
            Some(_) => {}
            None => break,
        }
    }
    end_and_release(&lab, &mut held, retry(Duration::from_millis(200))).await?;
    let mut seen: Vec<(String, u32)> = Vec::new();
    for delivery in held {
        seen.push((body(&delivery.message), delivery.attempt));
        lab.done(delivery.receipt).await?;
    }
    while seen.len() < 5 {
        let delivery = member.delivery().await?;
        seen.push((body(&delivery.message), delivery.attempt));
        lab.done(delivery.receipt).await?;
    }
    let (ada, bob): (Vec<_>, Vec<_>) = seen
        .iter()
        .map(|(text, attempt)| (text.as_str(), *attempt))
        .partition(|(text, _)| !["x", "y"].contains(text));
    check_eq!(ada, [("1", 2), ("2", 1), ("3", 1)], "the parked key");
    check_eq!(bob, [("x", 1), ("y", 1)], "the other key");
    Ok(())
}

/// While a message of a key is parked its later ones wait, however they came; other keys flow.
async fn other_keys_flow(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=1"]).await?;
    let (spec, mut member) = join(&lab, &topic, Order::Key).await?;
    let first = member.delivery().await?;
    lab.settle(first.receipt, retry(Duration::from_secs(600)))
        .await?;
    lab.put(&topic, 0, &["ada=2"]).await?;
    lab.put(&topic, 0, &["bob=x", "ada=3", "bob=y"]).await?;
    check_eq!(member.drain(2).await?, ["x", "y"], "what flows");
    member.quiet(QUIET).await?;
    let info = lab.group(&spec).await?;
    check_eq!(info.lag(), 3, "lag");
    check!(info.parked() >= 1, "parked: {}", info.parked());
    Ok(())
}

/// The messages of `ada` among these deliveries must be 1, 2, 3.
fn one_two_three(deliveries: &[String]) -> Check {
    let of_ada: Vec<_> = deliveries.iter().filter(|text| *text != "x").collect();
    check_eq!(of_ada, ["1", "2", "3"], "messages of the key");
    Ok(())
}

/// Messages appended while their key is parked come after it.
async fn later_appends_wait(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=1"]).await?;
    let (spec, mut member) = join(&lab, &topic, Order::Key).await?;
    let first = member.delivery().await?;
    lab.settle(first.receipt, retry(Duration::from_millis(200)))
        .await?;
    lab.put(&topic, 0, &["ada=2"]).await?;
    lab.put(&topic, 0, &["bob=x", "ada=3"]).await?;
    one_two_three(&member.drain(4).await?)?;
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// Each message of a key may be retried, some of them often: the order of their ends is that of the log.
async fn through_many_retries(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    let texts: Vec<String> = (0..30).map(|i| format!("k{}={i}", i % 3)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    lab.put(&topic, 0, &texts).await?;
    let (_, mut member) = join(&lab, &topic, Order::Key).await?;
    let mut rng = crate::rng::Rng::new(7);
    let (mut done, mut held) = ([const { Vec::new() }; 3], VecDeque::new());
    while done.iter().map(Vec::len).sum::<usize>() < 30 {
        if held.is_empty() {
            held.push_back(member.delivery().await?);
        }
        while let Some(Seen::Delivery(delivery)) = member.within(Duration::ZERO).await? {
            held.push_back(*delivery);
        }
        if rng.percent(40) {
            let after = Duration::from_millis(rng.below(4));
            end_and_release(&lab, &mut held, retry(after)).await?;
        } else if let Some(delivery) = held.pop_front() {
            let number: usize = body(&delivery.message)
                .parse()
                .map_err(crate::fault::Fault::new)?;
            done[number % 3].push(number);
            lab.done(delivery.receipt).await?;
        }
    }
    for (of, found) in done.iter().enumerate() {
        check!(
            found.is_sorted(),
            "messages of key k{of} ended in the order {found:?}"
        );
    }
    Ok(())
}

/// Released messages of a key come back in their order.
async fn through_releases(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=1", "ada=2", "ada=3", "ada=4"])
        .await?;
    let (_, mut member) = join(&lab, &topic, Order::Key).await?;
    for _ in 0..3 {
        let mut held = VecDeque::from([member.delivery().await?]);
        while let Some(Seen::Delivery(delivery)) = member.within(Duration::from_millis(5)).await? {
            held.push_back(*delivery);
        }
        let bodies: Vec<String> = held.iter().map(|d| body(&d.message)).collect();
        let whole = ["1", "2", "3", "4"].map(String::from);
        check!(
            whole.starts_with(&bodies),
            "deliveries of the key: {bodies:?}"
        );
        end_and_release(&lab, &mut held, Verdict::Release).await?;
    }
    check_eq!(member.drain(4).await?, ["1", "2", "3", "4"], "in the end");
    Ok(())
}

/// A member that has one message of a key at a time always gets the first that is not settled, whatever became of the
/// one before and whatever the engine had ready.
async fn one_at_a_time(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    for i in 0..60 {
        lab.put(&topic, 0, &[&format!("ada={i}")]).await?;
    }
    let spec = GroupSpec {
        max_attempts: 10_000,
        ..lab.spec(&topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    member.items = 1;
    let mut rng = crate::rng::Rng::new(21);
    let mut settled = 0;
    while settled < 60 {
        if rng.percent(30) {
            tokio::time::sleep(Duration::from_micros(rng.below(400))).await;
        }
        let delivery = member.delivery().await?;
        let text = body(&delivery.message);
        check_eq!(
            text,
            settled.to_string(),
            "the delivery after {settled} settles"
        );
        match rng.below(10) {
            0..3 => lab.settle(delivery.receipt, Verdict::Release).await?,
            3..5 => lab.settle(delivery.receipt, retry(Duration::ZERO)).await?,
            5 => drop(delivery),
            _ => {
                lab.done(delivery.receipt).await?;
                settled += 1;
            }
        }
    }
    Ok(())
}

/// Abandoned messages of a key come back in their order.
async fn through_drops(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=1", "bob=x", "ada=2", "ada=3"])
        .await?;
    let (spec, mut member) = join(&lab, &topic, Order::Key).await?;
    let first = member.delivery().await?;
    check_eq!(body(&first.message), "1", "the first delivery");
    drop((first, member));
    let mut member = lab.consume_as(&spec).await?;
    one_two_three(&member.drain(4).await?)
}

/// Messages without a key have no order among them.
async fn without_key(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["1"]).await?;
    let order = match lab.caps.key_order.is_there() {
        true => Order::Key,
        false => Order::Free,
    };
    let (_, mut member) = join(&lab, &topic, order).await?;
    let first = member.delivery().await?;
    lab.settle(first.receipt, retry(Duration::from_secs(600)))
        .await?;
    lab.put(&topic, 0, &["2", "3"]).await?;
    check_eq!(member.drain(2).await?, ["2", "3"], "deliveries");
    Ok(())
}

/// A parked key keeps its order when another member takes over.
async fn through_a_move(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=1"]).await?;
    let (spec, mut member) = join(&lab, &topic, Order::Key).await?;
    let first = member.delivery().await?;
    lab.settle(first.receipt, retry(Duration::from_millis(200)))
        .await?;
    lab.put(&topic, 0, &["ada=2", "bob=x", "ada=3"]).await?;
    drop(member);
    let mut next = lab.consume_as(&spec).await?;
    one_two_three(&next.drain(4).await?)
}

/// A parked key keeps its order over a reopen.
async fn through_a_reopen(mut lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=1"]).await?;
    let (spec, mut member) = join(&lab, &topic, Order::Key).await?;
    let first = member.delivery().await?;
    lab.settle(first.receipt, retry(Duration::from_millis(400)))
        .await?;
    lab.put(&topic, 0, &["ada=2", "bob=x", "ada=3"]).await?;
    drop(member);
    lab.reopen().await?;
    let mut next = lab.consume_as(&spec).await?;
    one_two_three(&next.drain(4).await?)
}

/// A dead letter lets its key go on.
async fn after_death(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=1", "ada=2"]).await?;
    let (spec, mut member) = join(&lab, &topic, Order::Key).await?;
    let first = member.delivery().await?;
    check_eq!(body(&first.message), "1", "the first delivery");
    lab.settle(first.receipt, Verdict::Dead("no use".into()))
        .await?;
    check_eq!(member.drain(1).await?, ["2"], "the next of the key");
    check_eq!(lab.group(&spec).await?.lag(), 0, "lag");
    Ok(())
}

/// Two parked keys come back each at its own time, each in its own order.
async fn two_keys_parked(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=a1", "bob=b1"]).await?;
    let (_, mut member) = join(&lab, &topic, Order::Key).await?;
    let mut unit = Unit::default();
    for delivery in member.take(2).await? {
        let after = match key(&delivery.message).as_str() {
            "ada" => Duration::from_millis(250),
            _ => Duration::from_millis(80),
        };
        unit.settle.push((delivery.receipt, retry(after)));
    }
    lab.apply(unit).await?;
    let texts = ["ada=a2", "bob=b2", "ada=a3", "cleo=c"];
    lab.put(&topic, 0, &texts).await?;
    let order = member.drain(6).await?;
    let at = |text: &str| order.iter().position(|seen| seen == text);
    check!(
        at("a1") < at("a2") && at("a2") < at("a3") && at("b1") < at("b2"),
        "keys out of order: {order:?}"
    );
    check!(at("b1") < at("a1"), "times out of order: {order:?}");
    Ok(())
}

/// A parked message holds the committed position: at the gap's bound the partition waits for it.
async fn counts_in_the_gap(lab: Lab) -> Check {
    let topic = lab.topic(1).await?;
    lab.put(&topic, 0, &["ada=0"]).await?;
    let spec = GroupSpec {
        gap: 5,
        ..lab.spec(&topic)?
    };
    let mut member = lab.consume_as(&spec).await?;
    let first = member.delivery().await?;
    lab.settle(first.receipt, retry(Duration::from_secs(600)))
        .await?;
    for i in 1..12 {
        lab.put(&topic, 0, &[&format!("k{i}={i}")]).await?;
    }
    check_eq!(member.drain(4).await?, ["1", "2", "3", "4"], "deliveries");
    if let Some(Seen::Delivery(delivery)) = member.within(QUIET).await? {
        check_eq!(body(&delivery.message), "5", "the last within the gap");
        lab.done(delivery.receipt).await?;
    }
    member.quiet(QUIET).await
}
