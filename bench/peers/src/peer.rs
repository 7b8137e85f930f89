//! What each system has to be able to do here.

use std::pin::Pin;
use std::sync::Arc;

/// Whatever went wrong, in words.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T> = std::result::Result<T, Error>;
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Bytes of a message's body.
pub const BODY: usize = 100;

/// Partitions of a topic, where the peer has them.
pub const PARTITIONS: u32 = 12;

/// One system under test.
pub trait Peer: Send + Sync {
    /// The ways of sending that are worth a try, in words.
    fn ways(&self) -> &'static [&'static str];

    /// Whether an append blocks its thread: each producer gets one of its own then.
    fn blocks(&self) -> bool;

    fn create<'a>(&'a self, topic: &'a str) -> Fut<'a, ()>;

    fn delete<'a>(&'a self, topic: &'a str) -> Fut<'a, ()>;

    /// A producer on the topic, the `index`-th of them.
    fn producer<'a>(&'a self, topic: &'a str, way: usize, index: u32)
    -> Fut<'a, Box<dyn Producer>>;

    /// Reads what the topic holds, from its start, the fastest way; gives the number of messages.
    fn read(self: Arc<Self>, topic: String) -> Fut<'static, u64>;

    fn close(&self) -> Fut<'_, ()>;
}

/// Sends batches.
pub trait Producer: Send {
    /// Ready when each message of the batch is acknowledged.
    fn append(&mut self, messages: u32) -> Fut<'_, ()>;
}

/// A body that no compression makes smaller.
pub fn body() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..BODY).map(|_| next()).collect()
}
