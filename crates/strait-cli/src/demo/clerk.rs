//! The clerk of the shop: mends orders that were typed in wrong, and gives them back to billing.

use strait::core::Timestamp;
use strait::core::events::DeadFilter;

use super::shop::{NOT_A_NUMBER, Order, Shop};
use super::*;

/// How often the clerk looks.
const EVERY: Duration = Duration::from_secs(2);
/// So long a dead letter is left for people to look at.
const LEFT_FOR: Duration = Duration::from_secs(12);

/// Mends the oldest dead letter that is about an amount, while there is a newer one to look at.
pub(super) async fn mend(shop: Shop, orders: Topic<Order>, mut stopped: watch::Receiver<bool>) {
    let dead = orders.group("billing").dead_letters();
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
        // Before the first order is billed there is no group, and when the engine ends there is nothing to mend.
        if let Ok(Some(text)) = mend_one(&dead).await {
            shop.tell(Note::new(text));
        }
    }
}

async fn mend_one(dead: &strait::DeadLetters<Order>) -> Result<Option<String>> {
    let about = DeadFilter {
        reason: Some(NOT_A_NUMBER.to_owned()),
        ..DeadFilter::default()
    };
    let letters = dead.list_of(&about).await?;
    let [letter, _, ..] = &letters[..] else {
        return Ok(None);
    };
    if Timestamp::now().since(letter.died) < LEFT_FOR {
        return Ok(None);
    }
    let order = dead.decode(letter)?;
    let Some((mended, was)) = order.mended() else {
        return Ok(None);
    };
    dead.edit(letter.number, &mended).await?;
    dead.redrive([letter.number]).await?;
    Ok(Some(format!(
        "order {}  the clerk made {was} of dead letter {} a number, and redrove it",
        mended.order, letter.number
    )))
}
