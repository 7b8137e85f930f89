//! One member of a group: pumps arrivals to its shards, and ends them in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use strait_core::{Arrival, Consumer, Error, Kind, Result, Shard};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::leases::MemberLeases;
use super::port::{Backlog, Input, Signal};
use super::shard::ShardCx;
use super::{ConsumerCx, Drive, ShardLeases};

/// What one poll asks for.
const ITEMS: usize = 1024;
const BYTES: usize = 1 << 20;
/// Waits between polls of a source that fails for now.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// What a shard gets beyond its time before its task is ended.
const OVERTIME: Duration = Duration::from_secs(3);

/// When to stop: `None` until it is known, then the end of the grace.
pub(crate) type Stop = watch::Receiver<Option<Instant>>;

/// A member, ready to run.
pub(crate) struct Member {
    pub(crate) consumer: Arc<ConsumerCx>,
    pub(crate) drive: Arc<dyn Drive>,
    pub(crate) source: Consumer,
    pub(crate) leases: Arc<MemberLeases>,
    pub(crate) bell: Arc<super::leases::Bell>,
    pub(crate) stop: Stop,
}

/// The way to a shard's task.
struct Port {
    inbox: mpsc::UnboundedSender<Input>,
    signal: watch::Sender<Signal>,
    backlog: Arc<Backlog>,
    leases: Arc<ShardLeases>,
}

struct Shards {
    ports: HashMap<Shard, Port>,
    /// Ports of shards that are ending: a task without its port would think that the member is gone.
    retired: Vec<Port>,
    tasks: JoinSet<()>,
    permits: Option<Arc<Semaphore>>,
    failed: mpsc::UnboundedSender<Error>,
}

impl Member {
    /// Runs until it is told to stop, or the engine takes nothing more.
    ///
    /// # Errors
    ///
    /// Why the engine takes nothing more.
    pub(crate) async fn run(mut self) -> Result<()> {
        let (failed, mut failures) = mpsc::unbounded_channel();
        let concurrency = self.consumer.options.concurrency;
        let mut shards = Shards {
            ports: HashMap::new(),
            retired: Vec::new(),
            tasks: JoinSet::new(),
            permits: concurrency.map(|n| Arc::new(Semaphore::new(n.max(1)))),
            failed,
        };
        let mut stop = self.stop.clone();
        let mut pause = FIRST_PAUSE;
        let ended = loop {
            let arrival = tokio::select! {
                biased;
                _ = stop.wait_for(Option::is_some) => break Ok(()),
                Some(error) = failures.recv() => break Err(error),
                Some(ended) = shards.tasks.join_next(), if !shards.tasks.is_empty() => {
                    if let Err(join) = ended {
                        break Err(broken(join));
                    }
                    continue;
                }
                arrival = self.source.next(ITEMS, BYTES) => arrival,
            };
            match arrival {
                Ok(Arrival::End) => {
                    break Err(Error::closed(format!("consumer {}", self.consumer.id)));
                }
                Ok(arrival) => {
                    pause = FIRST_PAUSE;
                    self.arrived(arrival, &mut shards);
                }
                Err(error) if error.may_retry() => {
                    tracing::warn!(
                        consumer = &*self.consumer.id,
                        ?error,
                        ?pause,
                        "the source fails for now"
                    );
                    tokio::select! {
                        _ = stop.wait_for(Option::is_some) => break Ok(()),
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
                Err(error) => break Err(error),
            }
        };
        let until = stop.borrow().unwrap_or_else(Instant::now);
        shards.finish(until).await;
        let ended = ended.and(failures.try_recv().map_or(Ok(()), Err));
        // Now, and not with the rest of `self`: the group gives its shards to others at once.
        drop(self.source);
        ended
    }

    fn arrived(&self, arrival: Arrival, shards: &mut Shards) {
        match arrival {
            Arrival::Assigned(shard) => {
                self.port(shard, shards);
            }
            Arrival::Run(chunk, receipt) => {
                let shard = receipt.fence().shard;
                let port = self.port(shard, shards);
                port.leases.add(receipt.fence());
                port.pass(Input::Run(chunk, receipt));
            }
            Arrival::Each(list) => {
                let mut by_shard: HashMap<Shard, Vec<_>> = HashMap::new();
                for delivery in list {
                    by_shard
                        .entry(delivery.receipt.fence().shard)
                        .or_default()
                        .push(delivery);
                }
                for (shard, list) in by_shard {
                    let port = self.port(shard, shards);
                    list.iter()
                        .for_each(|delivery| port.leases.add(delivery.receipt.fence()));
                    port.pass(Input::Each(list));
                }
            }
            Arrival::Revoking(shard, time) => match shards.ports.remove(&shard) {
                // Most of the time is for handlers, the rest for the last commits.
                Some(port) => {
                    shards.retire(port, Signal::HandBack(Instant::now() + time.mul_f32(0.8)))
                }
                None => self.source.control.handed_back(shard),
            },
            Arrival::Lost(shard) => {
                if let Some(port) = shards.ports.remove(&shard) {
                    shards.retire(port, Signal::Lost);
                }
            }
            Arrival::End => {}
        }
    }

    /// The port of a shard; its task begins with the first thing that is known of it.
    fn port<'a>(&self, shard: Shard, shards: &'a mut Shards) -> &'a Port {
        let Shards {
            ports,
            tasks,
            permits,
            failed,
            ..
        } = shards;
        ports.entry(shard).or_insert_with(|| {
            let (inbox, input) = mpsc::unbounded_channel();
            let (signal, signals) = watch::channel(Signal::Go);
            let leases = Arc::new(ShardLeases::new(shard, self.bell.clone()));
            self.leases.add(&leases);
            let backlog = Arc::new(Backlog::new(self.source.control.clone(), shard));
            let cx = ShardCx {
                consumer: self.consumer.clone(),
                leases: leases.clone(),
                inbox: input,
                signal: signals,
                stop: self.stop.clone(),
                backlog: backlog.clone(),
                permits: permits.clone(),
                failed: failed.clone(),
            };
            tasks.spawn(self.drive.clone().shard(cx));
            Port {
                inbox,
                signal,
                backlog,
                leases,
            }
        })
    }
}

impl Port {
    fn pass(&self, input: Input) {
        self.backlog.add(input.len());
        // A task that ended drops its inbox, and with the input its receipts: the engine takes the messages back.
        let _ = self.inbox.send(input);
    }
}

impl Shards {
    fn retire(&mut self, port: Port, signal: Signal) {
        self.retired.retain(|port| !port.signal.is_closed());
        port.backlog.retire();
        port.signal.send_replace(signal);
        self.retired.push(port);
    }

    /// Lets all shards finish within the time; what then still runs is dropped.
    async fn finish(&mut self, until: Instant) {
        // With a stop they know it already; without one the source has ended.
        for port in self.ports.values() {
            port.signal.send_replace(Signal::HandBack(until));
        }
        let joined = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout_at((until + OVERTIME).into(), joined)
            .await
            .is_err()
        {
            // Not waited for: a handler that blocks its thread ends when it likes.
            self.tasks.abort_all();
            self.tasks.detach_all();
        }
    }
}

fn broken(join: tokio::task::JoinError) -> Error {
    Error::new(
        Kind::Unexpected,
        "the task of a partition ended by a panic outside of the handler",
    )
    .caused_by(join)
}
