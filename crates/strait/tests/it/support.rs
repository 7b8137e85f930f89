//! What the tests share.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strait::core::events::GroupInfo;
use strait::{Group, Message, Strait, Topic};
use tokio::sync::Notify;

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
