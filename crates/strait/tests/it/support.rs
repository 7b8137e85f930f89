//! What the tests share.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use strait::core::events::GroupInfo;
use strait::core::{
    Backup, Claim, Claimed, Engine, EngineId, Fut, Health, Kind, Lanes, Outcome, Storage, Unit,
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

/// What becomes of a unit that is not simply committed.
pub(crate) enum Fate {
    /// It comes back.
    Refused(Error),
    /// It is gone, as if the process had died before.
    Lost,
    /// It is committed, and nobody hears of it.
    Unheard,
}

/// An engine that fails some units.
struct Failing<F> {
    engine: Arc<dyn Engine>,
    fate: F,
}

/// An engine in memory that refuses the units for which `refuse` gives an error.
pub(crate) fn refusing<R>(refuse: R) -> Strait
where
    R: Fn(&Unit) -> Option<Error> + Send + Sync + 'static,
{
    failing(move |unit| refuse(unit).map(Fate::Refused))
}

/// An engine in memory on which units have the fate that `fate` gives them.
pub(crate) fn failing<F>(fate: F) -> Strait
where
    F: Fn(&Unit) -> Option<Fate> + Send + Sync + 'static,
{
    failing_over(&memory(), fate)
}

/// An engine on which units have the fate that `fate` gives them.
pub(crate) fn failing_over<F>(strait: &Strait, fate: F) -> Strait
where
    F: Fn(&Unit) -> Option<Fate> + Send + Sync + 'static,
{
    let engine = strait.engine().clone();
    Strait::on(Arc::new(Failing { engine, fate }))
}

impl<F> Debug for Failing<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Failing({:?})", self.engine)
    }
}

impl<F: Fn(&Unit) -> Option<Fate> + Send + Sync + 'static> Engine for Failing<F> {
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
            let ended = || Error::new(Kind::Unavailable, "the connection ended").unknown();
            match (self.fate)(&unit) {
                Some(Fate::Refused(error)) => {
                    Box::pin(async { vec![Outcome::NotApplied(unit, error)] })
                }
                Some(Fate::Lost) => Box::pin(async move { vec![Outcome::Unknown(ended())] }),
                Some(Fate::Unheard) => {
                    let committed = self.engine.commit(vec![unit]);
                    Box::pin(async move {
                        committed.await;
                        vec![Outcome::Unknown(ended())]
                    })
                }
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
