//! Handlers that are none: each with a note that says what one looks like.

use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strait::{Batch, Handled, Message, Meta, State, Topic};

#[derive(Message, Serialize, Deserialize)]
#[message("order.placed.v1")]
struct OrderPlaced;

#[derive(Message, Serialize, Deserialize)]
#[message("order.paid.v1")]
struct OrderPaid;

fn not_async(_: OrderPlaced) -> Handled {
    Ok(())
}

async fn another_message(_: OrderPaid) -> Handled {
    Ok(())
}

async fn no_message() -> Handled {
    Ok(())
}

async fn not_an_extractor(_: OrderPlaced, _: String) -> Handled {
    Ok(())
}

async fn returns_a_number(_: OrderPlaced) -> u32 {
    7
}

async fn not_send(_: OrderPlaced, _: State<u64>) -> Handled {
    let rc = Rc::new(1);
    tokio::task::yield_now().await;
    drop(rc);
    Ok(())
}

async fn meta_of_a_batch(_: Batch<OrderPlaced>, _: Meta) -> Handled {
    Ok(())
}

async fn batch_for_each(_: Batch<OrderPlaced>) -> Handled {
    Ok(())
}

fn serve(orders: Topic<OrderPlaced>) {
    let group = orders.group("billing");
    let _ = group.each(not_async);
    let _ = group.each(another_message);
    let _ = group.each(no_message);
    let _ = group.each(not_an_extractor);
    let _ = group.each(returns_a_number);
    let _ = group.each(not_send);
    let _ = group.each(batch_for_each);
    let _ = group.each_batch(10, Duration::ZERO, meta_of_a_batch);
}

fn main() {}
