//! What the tests share.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use strait::core::events::GroupInfo;
use strait::core::{
    Backup, Claim, Claimed, Engine, EngineId, Fut, Health, Lanes, Outcome, Storage, Unit,
};
use strait::{Error, Group, Message, Result, Strait, Topic};
use tokio::sync::{Notify, watch};

/// Long enough for a loaded machine; reached only by a failing test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A message with a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Message)]
#[message("order.placed.v1", key = customer)]
pub(crate) struct Order {
    pub(crate) customer: String,
    pub(crate) number: u64,
}

pub(crate) fn order(customer: &str, number: u64) -> Order {
    Order {
        customer: customer.to_owned(),
        number,
    }
}

pub(crate) fn memory() -> Strait {
    Strait::memory().unwrap()
}

pub(crate) async fn orders(strait: &Strait, partitions: u32) -> Topic<Order> {
    strait
        .events()
        .topic("orders")
        .partitions(partitions)
        .await
        .unwrap()
}

pub(crate) async fn place(
    orders: &Topic<Order>,
    customer: &str,
    numbers: impl IntoIterator<Item = u64>,
) {
    for number in numbers {
        orders.append(&order(customer, number)).await.unwrap();
    }
}

/// An engine that refuses some units.
struct Refusing<R> {
    engine: Arc<dyn Engine>,
    refuse: R,
}

/// An engine in memory that refuses the units for which `refuse` gives an error.
pub(crate) fn refusing<R>(refuse: R) -> Strait
where
    R: Fn(&Unit) -> Option<Error> + Send + Sync + 'static,
{
    let engine = memory().engine().clone();
    Strait::on(Arc::new(Refusing { engine, refuse }))
}

impl<R> Debug for Refusing<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Refusing({:?})", self.engine)
    }
}

impl<R: Fn(&Unit) -> Option<Error> + Send + Sync + 'static> Engine for Refusing<R> {
    fn id(&self) -> EngineId {
        self.engine.id()
    }
    fn lanes(&self) -> Lanes {
        self.engine.lanes()
    }
    fn health(&self) -> watch::Receiver<Health> {
        self.engine.health()
    }
    fn claim(&self, claim: Claim) -> Fut<Result<Claimed>> {
        self.engine.claim(claim)
    }
    fn backup(&self, to: PathBuf) -> Fut<Result<Backup>> {
        self.engine.backup(to)
    }

    fn storage(&self) -> Fut<Result<Storage>> {
        self.engine.storage()
    }
    fn close(&self, grace: Duration) -> Fut<()> {
        self.engine.close(grace)
    }
    fn commit(&self, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let one_by_one = units.into_iter().map(|unit| -> Fut<Vec<Outcome>> {
            match (self.refuse)(&unit) {
                Some(error) => Box::pin(async { vec![Outcome::NotApplied(unit, error)] }),
                None => self.engine.commit(vec![unit]),
            }
        });
        // All of them begin before the first has ended: what is committed later comes behind them.
        let all = join_all(one_by_one.collect::<Vec<_>>());
        Box::pin(async { all.await.into_iter().flatten().collect() })
    }
}

/// A list that tests wait on.
#[derive(Debug)]
pub(crate) struct Log<T> {
    inner: Arc<(Mutex<Vec<T>>, Notify)>,
}

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Log {
            inner: self.inner.clone(),
        }
    }
}

impl<T: Clone + Debug> Log<T> {
    pub(crate) fn new() -> Self {
        Log {
            inner: Arc::new((Mutex::new(Vec::new()), Notify::new())),
        }
    }

    pub(crate) fn push(&self, item: T) {
        self.inner.0.lock().unwrap().push(item);
        self.inner.1.notify_waiters();
    }

    pub(crate) fn all(&self) -> Vec<T> {
        self.inner.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.inner.0.lock().unwrap().len()
    }

    /// Waits until there are `count`.
    pub(crate) async fn wait(&self, count: usize) -> Vec<T> {
        let reached = async {
            loop {
                let more = self.inner.1.notified();
                if self.len() >= count {
                    return self.all();
                }
                more.await;
            }
        };
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(all) => all,
            Err(_) => panic!("waited for {count}, there are {:?}", self.all()),
        }
    }
}

/// Waits until the group's state is as wished.
pub(crate) async fn until<M: Message>(
    group: &Group<M>,
    wish: impl Fn(&GroupInfo) -> bool,
) -> GroupInfo {
    let mut last = None;
    for _ in 0..3000 {
        match group.info().await {
            Ok(info) if wish(&info) => return info,
            other => last = Some(other),
        }
        // The engine has no event for this; the outcome does not depend on how long it takes.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the group did not come to it: {last:?}");
}

/// Waits until the group has settled everything.
pub(crate) async fn settled<M: Message>(group: &Group<M>) -> GroupInfo {
    until(group, |info| info.lag() == 0).await
}
