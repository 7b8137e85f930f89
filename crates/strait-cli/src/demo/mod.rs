//! The demo: a small shop in a real directory.
//!
//! Customers place orders; three groups live off them. `mail` is slow, `billing` asks a card service that times out now
//! and then, and meets orders whose amount is not a number; each payment leaves with the settle of its order, in one
//! commit, and `ledger` books it. A clerk mends the dead letters and redrives them.

mod clerk;
mod shop;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use strait::Topic;
use strait::core::events::{Cursor, Retention, Start};
use strait::core::{Name, Result};
use strait::{Backoff, Strait};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::dev::Note;
use crate::fail::Outcome;
use shop::{Order, Paid, RETRY, Shop};

/// Each partition keeps at most this much: a demo that is left running does not fill the disk.
const KEEP_BYTES: u64 = 64 << 20;
const PARTITIONS: u32 = 4;
/// The number of the first order; smaller ones come from other terminals.
pub(super) const FIRST_ORDER: u64 = 1001;
/// Handlers may take this long to end; then what they hold is given back, with no attempt spent.
const GRACE: Duration = Duration::from_secs(1);
/// The whole demo ends within this.
const END: Duration = Duration::from_millis(1500);

/// A running shop.
#[derive(Debug)]
pub(crate) struct Demo {
    shop: Shop,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Demo {
    /// Opens the shop: it goes on with the order after the last one in the log. What happens is told to `notes`.
    pub(crate) async fn start(strait: &Strait, notes: mpsc::Sender<Note>) -> Outcome<Self> {
        let keep = Retention {
            age: None,
            bytes: Some(KEEP_BYTES),
        };
        let events = strait.events();
        let orders = events.topic::<Order>("orders");
        let orders = orders.partitions(PARTITIONS).retention(keep).await?;
        let payments = events.topic::<Paid>("payments");
        let payments = payments.partitions(PARTITIONS).retention(keep).await?;
        let next = next_order(strait, &orders).await?;
        let shop = Shop::new(payments.clone(), notes);
        if next > FIRST_ORDER {
            let placed = next - FIRST_ORDER;
            shop.tell(Note::new(format!(
                "went on at order {next}: {placed} were placed before, and none is lost"
            )));
        }
        let (stop, stopped) = watch::channel(false);
        let counter = tokio::spawn(shop::take_orders(
            shop.clone(),
            orders.clone(),
            next,
            stopped.clone(),
        ));
        let app = strait
            .app()
            .state(shop.clone())
            .grace(GRACE)
            .serve(orders.group("billing").each(shop::bill).retry(RETRY))
            .serve(orders.group("mail").each(shop::mail).concurrency(4))
            .serve(payments.group("ledger").each(shop::book));
        let told = shop.clone();
        let clerk = tokio::spawn(clerk::mend(shop.clone(), orders.clone(), stopped.clone()));
        let mut stopped = stopped;
        let handlers = tokio::spawn(async move {
            let until = async move {
                // An error means that the demo was dropped: a reason to stop as well.
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            if let Err(error) = app.run_until(until).await {
                shop.tell(Note::new(format!("the handlers ended: {error}")));
            }
        });
        Ok(Demo {
            shop: told,
            stop,
            tasks: vec![counter, clerk, handlers],
        })
    }

    /// The median time to the acknowledgement of an order, over the last ones.
    pub(crate) fn ack_p50(&self) -> Option<Duration> {
        self.shop.ack_p50()
    }

    /// Closes the shop: handlers finish what they hold; what takes too long is handed back, with no attempt spent.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            // What is not finished now is delivered again at the next start.
            let _ = tokio::time::timeout(END, task).await;
        }
    }
}

/// The number after the greatest among the last orders of each partition.
async fn next_order(strait: &Strait, orders: &Topic<Order>) -> Result<u64> {
    let events = strait.events_lane()?;
    let name: Name = orders.name().clone();
    let mut last = FIRST_ORDER - 1;
    for partition in 0..orders.partitions() {
        let position = events
            .locate(name.clone(), partition, Start::Last(50))
            .await?;
        let cursor = Cursor {
            topic: name.clone(),
            partition,
            position,
            wait: Duration::ZERO,
        };
        let chunk = events.read(cursor, 1 << 20).await?;
        for item in chunk.iter() {
            // What another terminal sent need not be an order.
            if let Ok(order) = serde_json::from_slice::<Order>(item.record().body()) {
                last = last.max(order.order);
            }
        }
    }
    Ok(last + 1)
}
