//! Reading as a member of a group: what was printed is settled after stdout took it.

use std::time::Duration;

use strait::core::events::{GroupInfo, GroupSpec};
use strait::core::{
    Arrival, Chunk, Consumer, Delivery, Name, Outcome as Committed, Position, Receipt, Shard, Unit,
    Verdict, codes,
};

use super::Ctx;
use super::consume::{ConsumeArgs, Printer};
use super::render::Seen;
use crate::fail::Outcome;
use crate::target::Target;

/// Messages taken at once: few enough that little is printed twice after a crash.
const ITEMS: usize = 1024;
const BYTES: usize = 256 << 10;
/// With -e, how often to look whether other members have settled the rest. Nothing tells this member when they do.
const LOOK: Duration = Duration::from_millis(500);

/// Runs it until the end, the number or a signal; then leaves the group.
pub(super) async fn run(
    args: &ConsumeArgs,
    group: &Name,
    target: &Target,
    printer: &mut Printer,
    ctx: &Ctx,
) -> Outcome {
    let topic = target.topic(&args.topic).await?;
    let ends: Vec<Position> = topic.partitions.iter().map(|p| p.end).collect();
    let mut spec = GroupSpec::new(group.clone(), args.topic.clone());
    match target.events.group(group.clone(), args.topic.clone()).await {
        // Who looks on does not change what the group's own members declared.
        Ok(info) => info.declared.put_into(&mut spec),
        Err(error) if error.is(codes::NO_SUCH_GROUP) => {}
        Err(error) => return Err(error.into()),
    }
    spec.member = format!("strait consume, pid {}", std::process::id());
    if let Some(place) = args.offset {
        spec.start = place.0;
    }
    let consumer = target.events.join(spec).await?;
    let mut member = Member {
        consumer,
        target,
        printer,
        group,
        topic: &args.topic,
        ends: args.until_end.then_some(ends),
        ctx,
    };
    member.run().await
}

struct Member<'a> {
    consumer: Consumer,
    target: &'a Target,
    printer: &'a mut Printer,
    group: &'a Name,
    topic: &'a Name,
    /// The ends as seen at the start, where the command stops there.
    ends: Option<Vec<Position>>,
    ctx: &'a Ctx,
}

impl Member<'_> {
    async fn run(&mut self) -> Outcome {
        let interrupt = self.ctx.interrupt.wait();
        tokio::pin!(interrupt);
        while self.printer.left() > 0 && !self.at_end().await? {
            let look = async {
                match self.ends {
                    Some(_) => tokio::time::sleep(LOOK).await,
                    None => std::future::pending().await,
                }
            };
            let items = ITEMS.min(usize::try_from(self.printer.left()).unwrap_or(ITEMS));
            let arrival = tokio::select! {
                arrival = self.consumer.next(items, BYTES) => arrival?,
                () = look => continue,
                signal = &mut interrupt => return Err(signal),
            };
            match arrival {
                Arrival::Run(chunk, receipt) => self.print_run(&chunk, receipt).await?,
                Arrival::Each(deliveries) => self.print_each(deliveries).await?,
                // Nothing is kept in hand between two arrivals, so the shard can go at once.
                Arrival::Revoking(shard, _) => self.consumer.control.handed_back(shard),
                Arrival::Assigned(_) | Arrival::Lost(_) => {}
                Arrival::End => return Ok(()),
            }
        }
        Ok(())
    }

    /// True when nothing is left for anybody to take before the ends as seen at the start. What is parked, or in the
    /// hands of other members, is not waited for.
    async fn at_end(&self) -> Outcome<bool> {
        let Some(ends) = &self.ends else {
            return Ok(false);
        };
        let group = self
            .target
            .events
            .group(self.group.clone(), self.topic.clone())
            .await?;
        Ok(nothing_before(ends, &group, self.consumer.id))
    }

    async fn print_run(&mut self, chunk: &Chunk, mut receipt: Receipt) -> Outcome {
        let mut printed = 0;
        for item in chunk.iter() {
            if self.printer.left() == 0 || self.is_past_end(chunk.partition(), item.position()) {
                break;
            }
            printed += 1;
            self.printer.print(Seen {
                topic: chunk.topic(),
                partition: chunk.partition(),
                position: item.position(),
                record: item.record(),
            });
        }
        let mut settle = Vec::new();
        if printed == receipt.count() {
            settle.push((receipt, Verdict::Done));
        } else {
            let done = receipt.split_at(printed).map(|head| (head, Verdict::Done));
            settle.extend(done);
            settle.push((receipt, Verdict::Release));
        }
        self.settle(settle, chunk.partition()).await
    }

    async fn print_each(&mut self, deliveries: Vec<Delivery>) -> Outcome {
        let mut settle = Vec::new();
        let mut shard = 0;
        for delivery in deliveries {
            let message = &delivery.message;
            shard = message.partition();
            let left = self.printer.left() > 0 && !self.is_past_end(shard, message.position());
            let verdict = if left {
                Verdict::Done
            } else {
                Verdict::Release
            };
            if left {
                self.printer.print(Seen {
                    topic: message.topic(),
                    partition: shard,
                    position: message.position(),
                    record: message.record(),
                });
            }
            settle.push((delivery.receipt, verdict));
        }
        self.settle(settle, shard).await
    }

    fn is_past_end(&self, shard: Shard, position: Position) -> bool {
        let end = self.ends.as_ref().and_then(|ends| ends.get(shard as usize));
        self.ends.is_some() && end.is_none_or(|end| position >= *end)
    }

    /// Settles after stdout took the lines: a crash prints again rather than loses.
    async fn settle(&mut self, settle: Vec<(Receipt, Verdict)>, shard: Shard) -> Outcome {
        self.printer.flush().await?;
        // A unit for each receipt: one that was lost does not take the others with it.
        let units = settle
            .into_iter()
            .map(|(receipt, verdict)| Unit::settle(receipt, verdict))
            .collect();
        for committed in self.target.strait.engine().commit(units).await {
            match committed {
                Committed::Applied(_) | Committed::Seen(_) => {}
                Committed::Fenced => self.ctx.out.note(format!(
                    "partition {shard} went to another member: some of what was printed comes again there"
                )),
                Committed::NotApplied(_, error) | Committed::Unknown(error) => {
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }
}

/// Whether all that is left of a group lies after `ends`, is parked, or is out with another member than `me`.
fn nothing_before(ends: &[Position], group: &GroupInfo, me: u64) -> bool {
    let me = group.members.iter().find(|member| member.consumer == me);
    let mine = |partition| me.is_some_and(|me| me.shards.contains(&partition));
    (0..)
        .zip(&group.shards)
        .zip(ends)
        .all(|((partition, shard), end)| {
            let after = shard.end.offset().saturating_sub(end.offset());
            // What is out with this member is on its way to be printed.
            let elsewhere = if mine(partition) { 0 } else { shard.in_flight };
            shard.committed >= *end || shard.lag <= shard.parked + elsewhere + after
        })
}

#[cfg(test)]
mod tests {
    use strait::core::events::{GroupRules, MemberInfo, Overrides, ShardInfo};

    use super::*;

    #[test]
    fn the_end_is_reached_when_nothing_before_it_can_still_come_here() {
        let at = Position::at;
        let group = |lag, parked, in_flight, end| GroupInfo {
            group: "g".parse().unwrap(),
            topic: "t".parse().unwrap(),
            members: vec![MemberInfo {
                name: "m".into(),
                consumer: 7,
                shards: vec![0],
            }],
            shards: vec![ShardInfo {
                committed: at(3),
                end: at(end),
                lag,
                parked,
                in_flight,
                ..ShardInfo::default()
            }],
            dead: 0,
            dead_bytes: 0,
            paused: None,
            pause: None,
            declared: GroupRules::of(&GroupSpec::new("g".parse().unwrap(), "t".parse().unwrap())),
            overrides: Overrides::default(),
        };
        let reached = |end, group| nothing_before(&[at(end)], &group, 7);
        assert!(!reached(10, group(7, 0, 0, 10)));
        assert!(reached(10, group(1, 1, 0, 10)), "one is parked");
        assert!(reached(10, group(6, 1, 0, 15)), "five came later");
        assert!(!reached(10, group(7, 1, 0, 15)));
        assert!(reached(3, group(7, 0, 0, 10)), "all are later");
        assert!(
            !reached(10, group(7, 0, 7, 10)),
            "they are on their way here"
        );
        assert!(
            nothing_before(&[at(10)], &group(7, 0, 7, 10), 8),
            "another has them"
        );
    }
}
