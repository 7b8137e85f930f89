//! The shop's messages and handlers, and the customers at its counter.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use strait::{Attempt, Handled, Message, Out, State};

use super::*;

/// How billing tries again. The pauses are short, for people who watch; without jitter, so that they can be told.
pub(super) const RETRY: Backoff = Backoff::exponential(Duration::from_millis(500))
    .jitter(false)
    .up_to(4);
/// How long one mail takes: slower than orders come in a busy hour.
const MAIL_TAKES: Duration = Duration::from_millis(220);
/// The median is taken over so many orders.
const LAST_ACKS: usize = 101;
/// Why an order is given up whose amount cannot be read.
pub(super) const NOT_A_NUMBER: &str = "amount is not a number";
const CUSTOMERS: [&str; 10] = [
    "ada", "grace", "linus", "margaret", "dennis", "barbara", "ken", "radia", "alan", "edsger",
];

/// A customer placed an order.
#[derive(Debug, Clone, Serialize, Deserialize, Message)]
#[message("order.placed.v1", key = customer)]
pub(super) struct Order {
    pub(super) order: u64,
    customer: String,
    /// As typed in at the counter: not always a number.
    amount: String,
}

/// An order was paid.
#[derive(Debug, Clone, Serialize, Deserialize, Message)]
#[message("order.paid.v1", key = customer)]
pub(super) struct Paid {
    order: u64,
    customer: String,
    cents: u64,
}

/// What the handlers share.
#[derive(Debug, Clone)]
pub(super) struct Shop {
    payments: Topic<Paid>,
    notes: mpsc::Sender<Note>,
    /// How long the last orders waited for their acknowledgement.
    acks: Arc<Mutex<VecDeque<Duration>>>,
    /// Customers whose order billing tries again: their later orders wait.
    waiting: Arc<Mutex<HashMap<String, Waiting>>>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    order: u64,
    told: bool,
}

impl Shop {
    pub(super) fn new(payments: Topic<Paid>, notes: mpsc::Sender<Note>) -> Self {
        Shop {
            payments,
            notes,
            acks: Arc::default(),
            waiting: Arc::default(),
        }
    }

    /// Tells the view. A note that finds no room is left out: the counts in the view are exact without it.
    pub(super) fn tell(&self, note: Note) {
        let _ = self.notes.try_send(note);
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The median time to the acknowledgement of an order.
    pub(super) fn ack_p50(&self) -> Option<Duration> {
        let mut acks: Vec<Duration> = self.acks().iter().copied().collect();
        acks.sort_unstable();
        acks.get(acks.len() / 2).copied()
    }

    fn acks(&self) -> MutexGuard<'_, VecDeque<Duration>> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledged(&self, after: Duration) {
        let mut acks = self.acks();
        if acks.len() == LAST_ACKS {
            acks.pop_front();
        }
        acks.push_back(after);
    }

    /// Says so, once, when an order has to wait behind an earlier one of its customer.
    fn placed(&self, order: &Order) {
        let mut waiting = self.waiting();
        let Some(before) = waiting.get_mut(&order.customer) else {
            return;
        };
        if !std::mem::replace(&mut before.told, true) {
            self.tell(Note::new(format!(
                "order {} of {} waits behind {}; other customers go on",
                order.order, order.customer, before.order
            )));
        }
    }

    fn failed(&self, order: &Order, attempt: u32, why: &str) {
        let (number, attempts) = (order.order, RETRY.attempts());
        if attempt >= attempts {
            self.waiting().remove(&order.customer);
            return;
        }
        let again = RETRY.wait(attempt).as_secs_f64();
        self.tell(Note::new(format!(
            "order {number}  billing {attempt}/{attempts} failed: {why}; again in {again:.1} s"
        )));
        let entry = Waiting {
            order: number,
            told: false,
        };
        self.waiting()
            .entry(order.customer.clone())
            .or_insert(entry);
    }

    fn billed(&self, order: &Order, attempt: u32) {
        if attempt > 1 {
            self.waiting().remove(&order.customer);
            self.tell(Note::new(format!(
                "order {}  billing paid at attempt {attempt}",
                order.order
            )));
        }
    }
}

/// Takes the money. The payment leaves with the settle of the order, in one commit, or not at all.
pub(super) async fn bill(
    order: Order,
    Attempt(attempt): Attempt,
    shop: State<Shop>,
    out: Out,
) -> Handled {
    let charged = match cents(&order.amount) {
        Ok(cents) => card_service(&order, attempt).map(|()| cents),
        Err(why) => Err(why),
    };
    match charged {
        Ok(cents) => {
            shop.billed(&order, attempt);
            let paid = Paid {
                order: order.order,
                customer: order.customer,
                cents,
            };
            out.append(&shop.payments, &paid)?;
            Ok(())
        }
        Err(why) => {
            shop.failed(&order, attempt, why);
            Err(std::io::Error::other(why))?
        }
    }
}

impl Order {
    /// The order with its amount typed in right, and what the amount was; `None` when that is not plain.
    pub(super) fn mended(&self) -> Option<(Order, String)> {
        let amount = self.amount.replace(',', ".").replace('O', "0");
        cents(&amount).ok()?;
        let was = self.amount.clone();
        let order = self.clone();
        Some((Order { amount, ..order }, was))
    }
}

/// Reads `12.50`.
fn cents(amount: &str) -> std::result::Result<u64, &'static str> {
    let amount: f64 = amount.parse().map_err(|_| NOT_A_NUMBER)?;
    if !(0.0..1e9).contains(&amount) {
        return Err("amount is not a price");
    }
    Ok((amount * 100.0).round() as u64)
}

/// A service of somebody else's: for one order in 40 it times out once or twice.
fn card_service(order: &Order, attempt: u32) -> std::result::Result<(), &'static str> {
    let unlucky = match order.order % 80 {
        17 => 1,
        57 => 2,
        _ => 0,
    };
    if attempt <= unlucky {
        return Err("card service timed out");
    }
    Ok(())
}

/// Writes to the customer. Slow, and it holds up nobody but itself.
pub(super) async fn mail(_: Order) -> Handled {
    tokio::time::sleep(MAIL_TAKES).await;
    Ok(())
}

/// Books a payment.
pub(super) async fn book(paid: Paid, shop: State<Shop>) -> Handled {
    if paid.order < FIRST_ORDER {
        let (order, customer) = (paid.order, &paid.customer);
        let euros = paid.cents as f64 / 100.0;
        shop.tell(Note::new(format!(
            "order {order} of {customer}: your order was paid ({euros:.2}) and booked"
        )));
    }
    Ok(())
}

/// Customers at the counter: busy and calm in turn. Each order is durable before the next is taken.
pub(super) async fn take_orders(
    shop: Shop,
    orders: Topic<Order>,
    first: u64,
    mut stopped: watch::Receiver<bool>,
) {
    let mut number = first;
    loop {
        let order = new_order(number);
        let start = Instant::now();
        match orders.append(&order).await {
            Ok(_) => {
                shop.acknowledged(start.elapsed());
                shop.placed(&order);
                number += 1;
            }
            Err(error) if error.may_retry() => {
                shop.tell(Note::new(format!("order {number} waits: {error}")));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => {
                shop.tell(Note::new(format!("no more orders: {error}")));
                return;
            }
        }
        // 200 orders at 25 a second, then 80 at 8 a second.
        let pause = if number % 280 < 200 { 40 } else { 125 };
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(pause)) => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
    }
}

fn new_order(number: u64) -> Order {
    // Spread over customers and prices, the same for the same number.
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let customer = CUSTOMERS[(mixed % CUSTOMERS.len() as u64) as usize];
    let amount = match number % 200 {
        25 => "12,3O".to_owned(),
        _ => format!("{}.{:02}", 5 + mixed % 90, mixed % 100),
    };
    Order {
        order: number,
        customer: customer.to_owned(),
        amount,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soon_after_the_first_order_all_kinds_of_trouble_are_there() {
        let orders: Vec<Order> = (FIRST_ORDER..FIRST_ORDER + 100).map(new_order).collect();
        assert!(orders.iter().any(|order| cents(&order.amount).is_err()));
        assert!(orders.iter().any(|order| card_service(order, 1).is_err()));
        assert!(orders.iter().all(|order| card_service(order, 3).is_ok()));
        assert_eq!(cents("12.50"), Ok(1250));
        let wrong = orders.iter().find(|order| cents(&order.amount).is_err());
        let (mended, was) = wrong.and_then(Order::mended).unwrap();
        assert_eq!((cents(&mended.amount), &*was), (Ok(1230), "12,3O"));
        assert!(cents("NaN").is_err());
    }
}
