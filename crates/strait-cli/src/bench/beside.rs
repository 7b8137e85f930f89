//! The bare client of a server beside ours: in turns, on one topic, the same messages with the same ids, so that a reader
//! can tell one that was sent twice, acknowledged under the same conditions.

#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "redis")]
mod redis;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use strait::core::events::{Events, TopicInfo};
use strait::core::{Error, Fut, Kind, Name, Result};

use super::load::{self, Load, Measured, Work};
use super::{BenchArgs, Place, ROUNDS, catch_up};
use crate::fail::{Failure, Outcome};
use crate::text::count;

/// Before anything counts: connections are made, and topics are known.
const WARM_UP: Duration = Duration::from_millis(500);
/// Both sides read the topic so often.
const READS: u32 = 2;

/// Which bare client, and how it connects.
#[derive(Debug)]
pub(super) enum Client {
    #[cfg(feature = "kafka")]
    Kafka(Box<strait::kafka::Options>),
    #[cfg(feature = "redis")]
    Redis(Box<strait::redis::Options>),
}

/// A bare client that is connected.
struct Bare {
    name: &'static str,
    work: Work,
    /// Reads the partitions of one of so many readers from start to end, and gives the number of messages.
    read: Read,
}

type Read = Arc<dyn Fn(TopicInfo, Share) -> Fut<Result<u64>> + Send + Sync>;

/// Every `of`-th partition, from `first` on.
#[derive(Debug, Clone, Copy)]
struct Share {
    first: usize,
    of: usize,
}

impl Share {
    fn partitions(self, topic: &TopicInfo) -> impl Iterator<Item = usize> + use<> {
        (self.first..topic.partitions.len()).step_by(self.of)
    }
}

impl Client {
    /// The one for the server that is measured.
    pub(super) fn of(place: &Place) -> Outcome<Self> {
        let Place::Given(url) = place else {
            return Err(Failure::usage(
                "--bare measures a server's client: name the server, as in --url redis://HOST:PORT",
            ));
        };
        #[cfg(feature = "kafka")]
        if url.starts_with("kafka") {
            return Ok(Client::Kafka(Box::new(strait::kafka::Options::from_url(
                url,
            )?)));
        }
        #[cfg(feature = "redis")]
        if url.starts_with("redis") || url.starts_with("valkey") {
            return Ok(Client::Redis(Box::new(strait::redis::Options::from_url(
                url,
            )?)));
        }
        let what =
            "the bench knows bare clients of Kafka, Redis and Valkey, in a build that has them";
        let error = Error::new(Kind::Unsupported, what);
        Err(error
            .next("leave out --bare: a directory is measured beside a bare log")
            .into())
    }

    async fn connect(self, topic: &Name) -> Outcome<Bare> {
        match self {
            #[cfg(feature = "kafka")]
            Client::Kafka(options) => kafka::connect(&options, topic),
            #[cfg(feature = "redis")]
            Client::Redis(options) => redis::connect(&options, topic).await,
        }
    }
}

/// What was measured. Stable names.
#[derive(Debug, Serialize)]
pub(super) struct Beside {
    bare_client: &'static str,
    messages: u64,
    messages_per_second: f64,
    ack_p50_ms: f64,
    ack_p99_ms: f64,
    bare_messages_per_second: f64,
    bare_ack_p50_ms: f64,
    bare_ack_p99_ms: f64,
    /// Our rate divided by that of the bare client.
    of_bare: f64,
    /// One message at a time.
    one_ack_p50_us: f64,
    bare_one_ack_p50_us: f64,
    /// What ours takes longer, one message at a time.
    added_p50_us: f64,
    catch_up_messages: u64,
    catch_up_messages_per_second: f64,
    bare_catch_up_messages_per_second: f64,
    catch_up_of_bare: f64,
}

/// Measures both sides on the topic.
pub(super) async fn run(
    args: &BenchArgs,
    client: Client,
    events: &Arc<dyn Events>,
    topic: &Name,
) -> Outcome<Beside> {
    let bare = client.connect(topic).await?;
    let ours = load::filled(load::engine(events.clone(), topic.clone()));
    let warm_up = Load::new(args, WARM_UP);
    warm_up.run_work(ours.clone()).await?;
    warm_up.run_work(bare.work.clone()).await?;
    let one = Load::new(args, args.duration / ROUNDS).one_at_a_time();
    let (our_one, bare_one) = in_turns(&one, &ours, &bare.work).await?;
    let many = Load::new(args, args.duration / ROUNDS);
    let (our, bare_many) = in_turns(&many, &ours, &bare.work).await?;
    let info = events.topic(topic.clone()).await?;
    let reads = reads(events, &info, &bare).await?;
    let micros = |measured: &Measured| measured.ack_ms(0.5) * 1e3;
    let share = |ours: f64, bare: f64| (ours / bare * 1e3).round() / 1e3;
    Ok(Beside {
        bare_client: bare.name,
        messages: our.messages,
        messages_per_second: our.rate().round(),
        ack_p50_ms: our.ack_ms(0.5),
        ack_p99_ms: our.ack_ms(0.99),
        bare_messages_per_second: bare_many.rate().round(),
        bare_ack_p50_ms: bare_many.ack_ms(0.5),
        bare_ack_p99_ms: bare_many.ack_ms(0.99),
        of_bare: share(our.rate(), bare_many.rate()),
        one_ack_p50_us: micros(&our_one).round(),
        bare_one_ack_p50_us: micros(&bare_one).round(),
        added_p50_us: (micros(&our_one) - micros(&bare_one)).round(),
        catch_up_messages: reads.messages,
        catch_up_messages_per_second: reads.rate(reads.ours).round(),
        bare_catch_up_messages_per_second: reads.rate(reads.bare).round(),
        catch_up_of_bare: share(reads.rate(reads.ours), reads.rate(reads.bare)),
    })
}

/// Both in turns, so that what else the machine does meanwhile falls on both.
async fn in_turns(load: &Load, ours: &Work, bare: &Work) -> Outcome<(Measured, Measured)> {
    let mut sums = (
        load.run_work(ours.clone()).await?,
        load.run_work(bare.clone()).await?,
    );
    for _ in 1..ROUNDS {
        sums.0 = sums.0.add(load.run_work(ours.clone()).await?)?;
        sums.1 = sums.1.add(load.run_work(bare.clone()).await?)?;
    }
    Ok(sums)
}

struct Reads {
    /// Messages of one read.
    messages: u64,
    ours: Duration,
    bare: Duration,
}

impl Reads {
    fn rate(&self, all: Duration) -> f64 {
        self.messages as f64 * f64::from(READS) / all.as_secs_f64()
    }
}

async fn reads(events: &Arc<dyn Events>, info: &TopicInfo, bare: &Bare) -> Outcome<Reads> {
    let mut reads = Reads {
        messages: 0,
        ours: Duration::ZERO,
        bare: Duration::ZERO,
    };
    for _ in 0..READS {
        let (messages, took) = catch_up(events, info).await?;
        reads.messages = messages;
        reads.ours += took;
        let (found, took) = bare_catch_up(info, &bare.read).await?;
        reads.bare += took;
        if found != messages {
            let what = format!("ours read {messages} messages, the bare client {found}");
            return Err(Error::new(Kind::Unexpected, what).into());
        }
    }
    Ok(reads)
}

async fn bare_catch_up(info: &TopicInfo, read: &Read) -> Outcome<(u64, Duration)> {
    let of = std::thread::available_parallelism().map_or(2, usize::from);
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for first in 0..of {
        tasks.spawn(read(info.clone(), Share { first, of }));
    }
    let mut messages = 0;
    while let Some(done) = tasks.join_next().await {
        messages += done.map_err(|e| Error::new(Kind::Unexpected, e.to_string()))??;
    }
    Ok((messages, start.elapsed()))
}

/// A fault of a bare client.
fn failed(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Unavailable, format!("the bare client: {what}")).caused_by(error)
}

impl Beside {
    pub(super) fn in_words(&self) -> String {
        let n = |rate: f64| count(rate as u64, true);
        format!(
            "append    {} messages/s   acknowledged in {} ms p50, {} ms p99\n\
             bare      {} messages/s   acknowledged in {} ms p50, {} ms p99, {}   ratio {}\n\
             one       {} us p50, bare {} us, added {} us\n\
             catch-up  {} messages/s, bare {} messages/s   ratio {}\n",
            n(self.messages_per_second),
            self.ack_p50_ms,
            self.ack_p99_ms,
            n(self.bare_messages_per_second),
            self.bare_ack_p50_ms,
            self.bare_ack_p99_ms,
            self.bare_client,
            self.of_bare,
            self.one_ack_p50_us,
            self.bare_one_ack_p50_us,
            self.added_p50_us,
            n(self.catch_up_messages_per_second),
            n(self.bare_catch_up_messages_per_second),
            self.catch_up_of_bare,
        )
    }
}
