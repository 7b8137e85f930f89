//! The client: an engine that is somewhere else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use strait_core::events::GroupSpec;
use strait_core::{
    Backup, Claim, Claimed, Consumer, Engine, EngineId, Error, Fut, Health, Kind, Lanes, Outcome,
    Result, Storage, Unit,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};

use crate::frame::kind;
use crate::socket;
use crate::wire::{Out, Wire, read};

mod consumer;
mod drive;
mod events;
mod link;
mod units;

use consumer::{Inbox, RemoteControl, RemoteSource};
use events::RemoteEvents;
pub(crate) use link::Effects;
use link::Link;

/// How a client behaves.
#[derive(Debug, Clone, Copy)]
pub struct ClientOptions {
    /// How long connecting and greeting may take; then `Unavailable`. Default 5 s.
    pub hello_within: Duration,
    /// When a call or a consumer waits and nothing at all is heard from the other side for so long, not even the answer
    /// to a ping, the connection counts as lost. Default 30 s.
    pub silence: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            hello_within: Duration::from_secs(5),
            silence: Duration::from_secs(30),
        }
    }
}

/// An engine at the other end of a connection. Cheap to clone; the connection ends when the last clone, the last call and
/// the last consumer are gone.
///
/// All calls share the connection and may be under way at the same time; appends keep the order in which they were first
/// polled. At most 64 MiB of appends and commits wait for their answers, more wait to be sent.
///
/// # When the connection is lost
///
/// Health becomes `Down`. Every call that waits answers `Unavailable`: a read so that it can be repeated elsewhere, a
/// write with code `unknown_outcome`, because it may have happened. Consumers end with `Unavailable`, and what they
/// delivered is fenced. A client does not connect again: [`Reconnect`](crate::Reconnect) does.
#[derive(Debug, Clone)]
pub struct Client {
    link: Arc<Link>,
    _alive: Arc<Alive>,
}

/// Closes the connection with the last client.
#[derive(Debug)]
struct Alive(Arc<Link>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Client {
    /// Connects to the process that owns a data directory, over the socket there.
    ///
    /// `Unavailable` when nobody listens or answers, `Denied` when the socket belongs to another user, `Unsupported` when
    /// the two sides share no version of the protocol.
    pub async fn connect(directory: &Path, options: ClientOptions) -> Result<Client> {
        let directory = directory.to_owned();
        let connect = move || async move {
            let stream = socket::connect(&directory).await?;
            socket::check_peer(&stream)?;
            Ok(stream.into_split())
        };
        drive::begin(connect, options).await.map(Client::of)
    }

    /// Speaks over a stream that is connected already, for example TLS over TCP.
    pub async fn over<R, W>(reader: R, writer: W, options: ClientOptions) -> Result<Client>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let connect = move || async move { Ok((reader, writer)) };
        drive::begin(connect, options).await.map(Client::of)
    }

    /// The same without a thread: the connection lives as long as the future is polled. For simulations, which own every
    /// step; a program that blocks its runtime would lose its leases.
    #[doc(hidden)]
    pub async fn stepped<R, W>(
        reader: R,
        writer: W,
        options: ClientOptions,
    ) -> Result<(Client, impl Future<Output = ()> + Send)>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let connect = move || async move { Ok((reader, writer)) };
        let (link, life) = drive::open(connect, options).await?;
        Ok((Client::of(link), life))
    }

    fn of(link: Arc<Link>) -> Client {
        Client {
            _alive: Arc::new(Alive(link.clone())),
            link,
        }
    }

    /// The process at the other end, for messages: program, pid, build.
    pub fn peer(&self) -> String {
        self.link.welcome.process.to_string()
    }

    /// A request whose answer is one value. Sent at the first poll.
    fn call<T: Wire + Send + 'static>(
        &self,
        kind: u8,
        effects: Effects,
        request: &impl Wire,
    ) -> Fut<Result<T>> {
        let payload = Out::of(request);
        let client = self.clone();
        Box::pin(async move { client.link.clone().call(kind, effects, payload).await })
    }

    /// Opens a consumer. When nobody waits for it any more when the answer comes, it leaves at once.
    async fn open(self, group: GroupSpec) -> Result<Consumer> {
        let (answer, answered) = oneshot::channel();
        let payload = Out::of(&group);
        let link = self.link.clone();
        let reply = move |payload: Result<_>| {
            let consumer = payload
                .and_then(|payload| read::<Result<u64>>(payload)?)
                .and_then(|id| self.consumer(id, &group));
            // Dropped when nobody waits, and so it leaves.
            let _ = answer.send(consumer);
        };
        link.request(kind::JOIN, Effects::None, payload, Box::new(reply));
        let dropped = |_| Err(Error::closed("the connection"));
        answered.await.unwrap_or_else(dropped)
    }

    fn consumer(self, id: u64, group: &GroupSpec) -> Result<Consumer> {
        let inbox = Inbox::new(id, group);
        if let Err(error) = self.link.open(inbox.clone()) {
            // The other side has it already.
            let outbox = &self.link.outbox;
            outbox.push(kind::LEAVE, id, Out::of(&0u64));
            return Err(error);
        }
        let keep = inbox.clone().keep_leases(Arc::downgrade(&self.link));
        self.link.runtime.spawn(keep);
        let client = self;
        Ok(Consumer {
            source: Box::new(RemoteSource {
                inbox: inbox.clone(),
                client: client.clone(),
            }),
            control: Arc::new(RemoteControl { inbox, client }),
            id,
        })
    }
}

impl Engine for Client {
    fn id(&self) -> EngineId {
        EngineId(self.link.welcome.engine.as_str().into())
    }

    fn lanes(&self) -> Lanes {
        match &self.link.welcome.events {
            Some(caps) => Lanes::none().with_events(Arc::new(RemoteEvents {
                client: self.clone(),
                caps: caps.clone(),
            })),
            None => Lanes::none(),
        }
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.link.health.subscribe()
    }

    fn commit(&self, units: Vec<Unit>) -> Fut<Vec<Outcome>> {
        let client = self.clone();
        Box::pin(async move { units::send(&client.link, units, None).outcomes().await })
    }

    fn claim(&self, claim: Claim) -> Fut<Result<Claimed>> {
        self.call(kind::CLAIM, Effects::Repeatable, &claim)
    }

    /// On the machine of the engine at the other end.
    fn backup(&self, to: PathBuf) -> Fut<Result<Backup>> {
        match to.to_str() {
            Some(to) => self.call(kind::BACKUP, Effects::Once, &to.to_owned()),
            None => {
                let text = format!("the path `{}` is not UTF-8", to.display());
                Box::pin(std::future::ready(Err(Error::new(Kind::Rejected, text))))
            }
        }
    }

    fn storage(&self) -> Fut<Result<Storage>> {
        self.call(kind::STORAGE, Effects::None, &())
    }

    /// Closes the connection; the engine at the other end stays open.
    fn close(&self, grace: Duration) -> Fut<()> {
        let link = self.link.clone();
        Box::pin(async move {
            for inbox in link.begin_close() {
                inbox.leave(&link);
            }
            let end = async {
                link.quiet().await;
                link.close();
                link.finished().await;
            };
            if tokio::time::timeout(grace, end).await.is_err() {
                link.close();
            }
        })
    }
}
