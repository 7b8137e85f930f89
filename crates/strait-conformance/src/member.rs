//! A member of a consumer group as the cases see it: one delivery at a time, whatever way the engine hands them out.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use strait_core::{
    Arrival, Consumer, Delivery, Engine, Fence, Outcome, Receipt, Shard, Unit, Verdict,
};

use crate::fault::{Check, Fault};
use crate::lab::{body, commit, key};

/// What a member sees next.
#[derive(Debug)]
pub(crate) enum Seen {
    Delivery(Box<Delivery>),
    Assigned,
    Revoking(Shard, Duration),
    Lost(Shard),
    End,
}

/// A member. It tells deliveries of a run apart; what it was assigned is in `owned`.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) consumer: Consumer,
    engine: Arc<dyn Engine>,
    patience: Duration,
    held: VecDeque<Delivery>,
    /// How many messages it asks for at a time.
    pub(crate) items: usize,
    /// The shards that it owns now.
    pub(crate) owned: BTreeSet<Shard>,
}

impl Member {
    pub(crate) fn new(consumer: Consumer, engine: Arc<dyn Engine>, patience: Duration) -> Self {
        Member {
            consumer,
            engine,
            patience,
            held: VecDeque::new(),
            items: 1_000,
            owned: BTreeSet::new(),
        }
    }

    /// What comes next, waiting for it.
    pub(crate) async fn next(&mut self) -> Check<Seen> {
        let seen = self.within(self.patience).await?;
        seen.ok_or_else(|| Fault::new("the consumer yields nothing more, something was to come"))
    }

    /// What comes next within this time.
    pub(crate) async fn within(&mut self, time: Duration) -> Check<Option<Seen>> {
        let deadline = tokio::time::Instant::now() + time;
        loop {
            if let Some(delivery) = self.held.pop_front() {
                return Ok(Some(Seen::Delivery(Box::new(delivery))));
            }
            let next = self.consumer.next(self.items, 1 << 20);
            let Ok(arrival) = tokio::time::timeout_at(deadline, next).await else {
                return Ok(None);
            };
            if let Some(seen) = self.arrived(arrival?)? {
                return Ok(Some(seen));
            }
        }
    }

    fn arrived(&mut self, arrival: Arrival) -> Check<Option<Seen>> {
        match arrival {
            Arrival::Each(deliveries) => self.held.extend(deliveries),
            Arrival::Run(chunk, receipt) => self.held.extend(single(chunk, receipt)?),
            Arrival::Assigned(shard) => {
                check!(
                    self.owned.insert(shard),
                    "shard {shard} is assigned twice to one member"
                );
                return Ok(Some(Seen::Assigned));
            }
            Arrival::Revoking(shard, time) => return Ok(Some(Seen::Revoking(shard, time))),
            Arrival::Lost(shard) => {
                self.owned.remove(&shard);
                return Ok(Some(Seen::Lost(shard)));
            }
            Arrival::End => return Ok(Some(Seen::End)),
        }
        Ok(None)
    }

    /// The next delivery; assignments on the way are noted, a shard that another member takes is handed back.
    pub(crate) async fn delivery(&mut self) -> Check<Delivery> {
        loop {
            match self.next().await? {
                Seen::Delivery(delivery) => return Ok(*delivery),
                Seen::Revoking(shard, _) => self.hand_back(shard).await?,
                Seen::Assigned | Seen::Lost(_) => {}
                Seen::End => {
                    return Err(Fault::new(
                        "the consumer ended, a delivery was to come".to_owned(),
                    ));
                }
            }
        }
    }

    /// So many deliveries.
    pub(crate) async fn take(&mut self, count: usize) -> Check<Vec<Delivery>> {
        let mut taken: Vec<Delivery> = Vec::with_capacity(count);
        while taken.len() < count {
            let next = self.delivery().await;
            taken.push(next.map_err(|fault| {
                let bodies: Vec<String> = taken.iter().map(|d| body(&d.message)).collect();
                Fault::new(format!(
                    "{count} deliveries wanted, got {bodies:?}: {fault}"
                ))
            })?);
        }
        Ok(taken)
    }

    /// Takes so many deliveries, one after the other, each settled as handled before the next; gives their bodies.
    pub(crate) async fn drain(&mut self, count: usize) -> Check<Vec<String>> {
        let mut bodies = Vec::with_capacity(count);
        while bodies.len() < count {
            let delivery = self.delivery().await.map_err(|fault| {
                Fault::new(format!(
                    "{count} deliveries wanted, got {bodies:?}: {fault}"
                ))
            })?;
            bodies.push(body(&delivery.message));
            self.settle(delivery.receipt, Verdict::Done).await?;
        }
        Ok(bodies)
    }

    /// What has arrived and was not looked at yet.
    pub(crate) fn holding(&self) -> impl Iterator<Item = String> {
        self.held.iter().map(|delivery| body(&delivery.message))
    }

    /// Waits until it owns so many shards.
    pub(crate) async fn owns(&mut self, count: usize) -> Check {
        while self.owned.len() < count {
            match self.next().await {
                Ok(Seen::Assigned) => {}
                Ok(other) => {
                    let text = format!("assignments were to come first, not {other:?}");
                    return Err(Fault::new(text));
                }
                Err(fault) => {
                    let owned = &self.owned;
                    let text = format!("it owns {owned:?}, {count} shards wanted: {fault}");
                    return Err(Fault::new(text));
                }
            }
        }
        Ok(())
    }

    /// Checks that no delivery comes within this time; assignments may.
    pub(crate) async fn quiet(&mut self, time: Duration) -> Check {
        let deadline = tokio::time::Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            match self.within(left).await? {
                None => return Ok(()),
                Some(Seen::Delivery(delivery)) => {
                    let (text, attempt) = (body(&delivery.message), delivery.attempt);
                    let text =
                        format!("`{text}` was delivered (attempt {attempt}), nothing was to");
                    return Err(Fault::new(text));
                }
                Some(Seen::Revoking(shard, _)) => self.hand_back(shard).await?,
                Some(_) => {}
            }
        }
    }

    /// Waits until it is asked for a shard; a delivery before that is a fault.
    pub(crate) async fn revoked(&mut self) -> Check<(Shard, Duration)> {
        loop {
            match self.next().await? {
                Seen::Revoking(shard, time) => return Ok((shard, time)),
                Seen::Assigned => {}
                other => {
                    return Err(Fault::new(format!(
                        "a shard was to be revoked, not {other:?}"
                    )));
                }
            }
        }
    }

    /// Waits until a shard is lost; deliveries before it are dropped.
    pub(crate) async fn lost(&mut self) -> Check<Shard> {
        loop {
            if let Seen::Lost(shard) = self.next().await? {
                return Ok(shard);
            }
        }
    }

    /// Releases what it has not looked at of a shard, and hands the shard back.
    pub(crate) async fn hand_back(&mut self, shard: Shard) -> Check {
        let (of_it, rest): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|delivery| delivery.receipt.fence().shard == shard);
        self.held = rest;
        for delivery in of_it {
            commit(
                &self.engine,
                Unit::settle(delivery.receipt, Verdict::Release),
            )
            .await?;
        }
        self.owned.remove(&shard);
        self.consumer.control.handed_back(shard);
        Ok(())
    }

    /// Releases what it has not looked at of a key, as a member must whose earlier message of the key comes again.
    pub(crate) async fn give_back(&mut self, of: &str) -> Check {
        let (same, rest): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|delivery| key(&delivery.message) == of);
        self.held = rest;
        if same.is_empty() {
            return Ok(());
        }
        let mut unit = Unit::default();
        let released = same.into_iter().map(|d| (d.receipt, Verdict::Release));
        unit.settle.extend(released);
        match commit(&self.engine, unit).await? {
            Outcome::Applied(_) => Ok(()),
            other => Err(Fault::new(format!("giving back was to apply: {other:?}"))),
        }
    }

    /// Extends the leases.
    pub(crate) async fn extend(&self, fences: Vec<Fence>, by: Duration) -> Check<Vec<bool>> {
        Ok(self.consumer.control.extend(fences, by).await?)
    }

    async fn settle(&self, receipt: Receipt, verdict: Verdict) -> Check {
        match commit(&self.engine, Unit::settle(receipt, verdict)).await? {
            Outcome::Applied(_) => Ok(()),
            other => Err(Fault::new(format!(
                "the settle was to be applied: {other:?}"
            ))),
        }
    }
}

/// The deliveries of a run, each with its own receipt.
pub(crate) fn single(chunk: strait_core::Chunk, mut receipt: Receipt) -> Check<Vec<Delivery>> {
    check_eq!(
        chunk.len(),
        receipt.count() as usize,
        "messages of a run and its receipt's count"
    );
    check_eq!(
        chunk.partition(),
        receipt.fence().shard,
        "partition of a run and its receipt's shard"
    );
    let mut deliveries = Vec::with_capacity(chunk.len());
    let mut items = chunk.iter().peekable();
    while let Some(item) = items.next() {
        let last = items.peek().is_none();
        let own = if last { None } else { receipt.split_first() };
        let message = item.to_message();
        let Some(own) = own else {
            deliveries.push(first_attempt(message, receipt));
            return Ok(deliveries);
        };
        deliveries.push(first_attempt(message, own));
    }
    Err(Fault::new("a run without a message was delivered"))
}

fn first_attempt(message: strait_core::Message, receipt: Receipt) -> Delivery {
    Delivery {
        message,
        attempt: 1,
        last_error: None,
        receipt,
    }
}
