//! How a shard ends: finished in order, or lost.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use strait_core::Receipt;
use tokio::time::timeout;

use super::handling::{Ending, Few, Item, Task};
use super::port::Input;
use super::shard::{ShardTask, changed, sleep};

/// What commits that are under way get at the end, beyond the time for handlers.
const LAST_COMMITS: Duration = Duration::from_secs(2);

impl<S, F> ShardTask<S, F>
where
    S: Fn(Few<Task>) -> F + Send,
    F: Future<Output = Few<Ending>> + Send,
{
    /// Ends the shard for another member to take it.
    pub(super) async fn hand_back(self, until: Instant) {
        let backlog = self.cx.backlog.clone();
        self.finish(until).await;
        backlog.control.handed_back(backlog.shard);
    }

    /// Gives back what was not begun, waits for what was, gives back what did not end in time.
    pub(super) async fn finish(mut self, until: Instant) {
        let kept = self.keys.drain();
        let waiting = self
            .gathering
            .drain(..)
            .chain(self.ready.drain(..))
            .chain(kept);
        let receipts: Vec<Receipt> = waiting.map(|item| item.held.receipt).collect();
        receipts
            .into_iter()
            .for_each(|receipt| self.settler.release(receipt));
        self.cx.inbox.close();
        while let Ok(input) = self.cx.inbox.try_recv() {
            match input {
                Input::Run(_, receipt) => self.settler.release(receipt),
                Input::Each(list) => list
                    .into_iter()
                    .for_each(|delivery| self.settler.release(delivery.receipt)),
            }
        }
        while !self.running.is_empty() && self.fatal.is_none() {
            self.settler.flush();
            tokio::select! {
                settled = self.settler.next(), if self.settler.has_commits() => self.settled(settled),
                Some((endings, begun)) = self.running.next() => self.was_running(endings, begun),
                () = sleep(Some(until)) => break,
            }
            let ready: Vec<Item> = self.ready.drain(..).collect();
            ready
                .into_iter()
                .for_each(|item| self.settler.release(item.held.receipt));
        }
        for begun in std::mem::take(&mut self.running)
            .into_iter()
            .filter_map(|running| running.0)
        {
            for held in begun.held {
                held.key
                    .into_iter()
                    .for_each(|key| self.settler.let_go(key));
                self.settler.release(held.receipt);
            }
        }
        while !self.settler.is_idle() && self.fatal.is_none() {
            self.settler.flush();
            match timeout(LAST_COMMITS, self.settler.next()).await {
                Ok(settled) => self.settled(settled),
                Err(_) => break,
            }
        }
        if let Some(error) = self.fatal.take() {
            // The member may have gone already.
            let _ = self.cx.failed.send(error);
        }
    }

    /// The shard belongs to somebody else. Handlers that run are told, and may end in their own time; what they did is
    /// fenced.
    pub(super) async fn lost(mut self) {
        self.cx.leases.lost_all();
        self.cx.inbox.close();
        self.ready.clear();
        self.gathering.clear();
        self.keys.drain();
        loop {
            tokio::select! {
                () = changed(&mut self.cx.stop) => return,
                ended = self.running.next() => if ended.is_none() { return },
            }
        }
    }
}
