//! A message whose body cannot be written or read.

use strait::Message;

#[derive(Message)]
#[message("order.placed.v1")]
struct OrderPlaced {
    order: u64,
}

fn main() {}
