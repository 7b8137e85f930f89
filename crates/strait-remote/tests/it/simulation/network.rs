//! Links between processes and the owner: they carry bytes in order, in pieces, late, not at all, or to one side only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use strait_embedded::disk::rng::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::owner::Owner;
use super::tasks::Tasks;

/// What a link holds in each direction, as the buffers of a socket.
const BUFFER: usize = 64 << 10;

/// One direction of a link.
#[derive(Debug, Default)]
struct Line {
    stalled: watch::Sender<bool>,
    /// What is sent from now on is lost.
    lost: AtomicBool,
}

/// A link as the faults see it.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    up: Arc<Line>,
    down: Arc<Line>,
    tasks: [AbortHandle; 2],
}

/// Connects to the owner; `None` when nobody is there.
pub(crate) fn connect(owner: &Owner, tasks: &Tasks, rng: &mut Rng) -> Option<(DuplexStream, Link)> {
    let (client, near) = tokio::io::duplex(BUFFER);
    let (far, server) = tokio::io::duplex(BUFFER);
    if !owner.serve(server) {
        return None;
    }
    let (near_reader, near_writer) = tokio::io::split(near);
    let (far_reader, far_writer) = tokio::io::split(far);
    let (up, down) = (Arc::<Line>::default(), Arc::<Line>::default());
    let manner = Manner::any(rng);
    let carry_up = carry(up.clone(), near_reader, far_writer, manner, rng.next_u64());
    let carry_down = carry(
        down.clone(),
        far_reader,
        near_writer,
        manner,
        rng.next_u64(),
    );
    let tasks = [tasks.spawn(carry_up), tasks.spawn(carry_down)];
    Some((client, Link { up, down, tasks }))
}

impl Link {
    /// Nothing is carried in both directions, or everything again.
    pub(crate) fn stall(&self, stalled: bool) {
        self.up.stalled.send_replace(stalled);
        self.down.stalled.send_replace(stalled);
    }

    /// What the owner says is lost from now on, and it hears everything still.
    pub(crate) fn lose_answers(&self) {
        self.down.lost.store(true, Ordering::Relaxed);
    }

    /// What the owner is told is lost from now on, and it is heard still.
    pub(crate) fn lose_requests(&self) {
        self.up.lost.store(true, Ordering::Relaxed);
    }

    /// Both ends see the end, and what is under way is lost.
    pub(crate) fn cut(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// How a link carries what it is given.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// Most bytes at once.
    piece: usize,
    /// The longest delay of a piece, in milliseconds.
    delay: u64,
}

impl Manner {
    fn any(rng: &mut Rng) -> Self {
        match rng.below(4) {
            0 => Manner {
                piece: 24,
                delay: 1,
            },
            1 => Manner {
                piece: 700,
                delay: 8,
            },
            2 => Manner {
                piece: BUFFER,
                delay: 60,
            },
            _ => Manner {
                piece: BUFFER,
                delay: 2,
            },
        }
    }
}

/// Carries until one end is gone.
async fn carry(
    line: Arc<Line>,
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    manner: Manner,
    seed: u64,
) {
    let mut rng = Rng::new(seed);
    let mut stalled = line.stalled.subscribe();
    let mut piece = vec![0; manner.piece];
    loop {
        let count = from.read(&mut piece).await.unwrap_or(0);
        if manner.delay > 1 || rng.one_in(16) {
            tokio::time::sleep(Duration::from_millis(rng.below(manner.delay + 1))).await;
        }
        // The sender lives as long as the line.
        let _ = stalled.wait_for(|stalled| !stalled).await;
        if count == 0 {
            // The other end may be gone as well.
            let _ = to.shutdown().await;
            return;
        }
        if !line.lost.load(Ordering::Relaxed) && to.write_all(&piece[..count]).await.is_err() {
            return;
        }
    }
}
