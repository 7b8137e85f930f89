//! A TCP proxy between a client and its server, with the faults of a network.
//!
//! It runs on a thread of its own, so that a test's runtime neither drives it nor is held up by it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes that one step carries.
const STEP: usize = 64 << 10;

/// A running proxy on the loopback address. Dropping it closes its port and its connections.
///
/// ```
/// use std::io::{Read, Write};
/// use strait_conformance::Proxy;
///
/// let server = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let proxy = Proxy::to(server.local_addr()?)?;
/// let mut client = std::net::TcpStream::connect(proxy.address())?;
/// client.write_all(b"hello")?;
/// let mut got = [0; 5];
/// server.accept()?.0.read_exact(&mut got)?;
/// assert_eq!(&got, b"hello");
///
/// proxy.cut();
/// assert!(matches!(client.read(&mut got), Ok(0) | Err(_)), "the connection has ended");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A client that learns addresses from its server (Kafka's `advertised.listeners`) must learn the proxy's: else it goes
/// around it after the first connection.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    faults: watch::Sender<Faults>,
    carried: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

/// What the network does now.
#[derive(Debug, Clone, Copy)]
struct Faults {
    /// New connections end at once.
    refuses: bool,
    /// Bytes do not move; connections stay.
    stalled: bool,
    /// Each step waits this long.
    delay: Duration,
    /// Connections of an earlier one end.
    generation: u64,
    /// The proxy itself ends.
    ended: bool,
}

impl Proxy {
    /// A proxy on a free port of the loopback address. `server` need not be there yet.
    ///
    /// # Errors
    ///
    /// When no port or thread can be had.
    pub fn to(server: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (faults, seen) = watch::channel(Faults {
            refuses: false,
            stalled: false,
            delay: Duration::ZERO,
            generation: 0,
            ended: false,
        });
        let carried = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let open = carried.clone();
        let thread = std::thread::Builder::new()
            .name("proxy".into())
            .spawn(move || runtime.block_on(serve(listener, server, seen, open)))?;
        Ok(Proxy {
            address,
            faults,
            carried,
            thread: Some(thread),
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that it carries now.
    pub fn connections(&self) -> usize {
        self.carried.load(Ordering::Acquire)
    }

    /// Resets all connections, and every new one, until [`heal`](Proxy::heal).
    pub fn cut(&self) {
        self.change(|faults| {
            faults.refuses = true;
            faults.generation += 1;
        });
    }

    /// Resets the connections of this moment; new ones are carried.
    pub fn reset(&self) {
        self.change(|faults| faults.generation += 1);
    }

    /// Holds all bytes back in both directions, those on the way too, until [`heal`](Proxy::heal). Connections stay open,
    /// new ones are taken: what a client sees of a server that hangs, or of a network that loses everything.
    pub fn stall(&self) {
        self.change(|faults| faults.stalled = true);
    }

    /// Lets each step of up to 64 KiB wait this long, in each direction.
    pub fn delay(&self, each: Duration) {
        self.change(|faults| faults.delay = each);
    }

    /// Ends all faults. What was held back arrives.
    pub fn heal(&self) {
        self.change(|faults| {
            faults.refuses = false;
            faults.stalled = false;
            faults.delay = Duration::ZERO;
        });
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(change);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|faults| faults.ended = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes connections until the proxy ends. What it carries ends with its runtime.
async fn serve(
    listener: std::net::TcpListener,
    server: SocketAddr,
    faults: watch::Receiver<Faults>,
    open: Arc<AtomicUsize>,
) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    let carry_on = async {
        loop {
            // A connection that was gone before it was taken is no reason to stop.
            if let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, server, faults.clone(), open.clone()));
            }
        }
    };
    let mut ended = faults.clone();
    tokio::select! {
        () = carry_on => {}
        _ = ended.wait_for(|faults| faults.ended) => {}
    }
}

async fn connection(
    client: TcpStream,
    server: SocketAddr,
    faults: watch::Receiver<Faults>,
    open: Arc<AtomicUsize>,
) {
    let now = *faults.borrow();
    // Reset, not closed: nothing that is still on the way arrives.
    let _ = client.set_zero_linger();
    if now.refuses {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let _ = server.set_zero_linger();
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    open.fetch_add(1, Ordering::AcqRel);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let both = async {
        tokio::join!(
            one_way(from_client, to_server, faults.clone()),
            one_way(from_server, to_client, faults.clone())
        )
    };
    let mut cut = faults.clone();
    tokio::select! {
        _ = both => {}
        _ = cut.wait_for(|faults| faults.generation != now.generation) => {}
    }
    open.fetch_sub(1, Ordering::AcqRel);
}

/// Carries bytes one way to their end. An end of the stream is passed on, so that half-closed connections work.
async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut faults: watch::Receiver<Faults>,
) {
    let mut step = vec![0; STEP];
    loop {
        let read = from.read(&mut step).await;
        let delay = faults.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if faults.wait_for(|faults| !faults.stalled).await.is_err() {
            return;
        }
        match read {
            Ok(0) | Err(_) => {
                let _ = to.shutdown().await;
                return;
            }
            Ok(count) => {
                if to.write_all(&step[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    /// Time in which nothing may arrive; all else is waited for.
    const QUIET: Duration = Duration::from_millis(100);
    const LIMIT: Duration = Duration::from_secs(20);

    fn pair() -> (TcpListener, Proxy) {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let proxy = Proxy::to(server.local_addr().expect("its address")).expect("a proxy");
        (server, proxy)
    }

    fn connect(proxy: &Proxy, server: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(proxy.address()).expect("connected");
        let (taken, _) = server.accept().expect("taken");
        for stream in [&client, &taken] {
            stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        }
        (client, taken)
    }

    fn read(stream: &mut TcpStream) -> io::Result<u8> {
        let mut byte = [0];
        stream.read_exact(&mut byte).map(|()| byte[0])
    }

    #[test]
    fn bytes_and_half_closes_go_both_ways() {
        let (server, proxy) = pair();
        let (mut client, mut taken) = connect(&proxy, &server);
        client.write_all(b"a").expect("written");
        assert_eq!(read(&mut taken).expect("read"), b'a');
        client.shutdown(std::net::Shutdown::Write).expect("closed");
        assert_eq!(taken.read(&mut [0]).expect("the end"), 0);
        taken.write_all(b"b").expect("written");
        assert_eq!(read(&mut client).expect("read"), b'b');
        assert_eq!(proxy.connections(), 1);
    }

    #[test]
    fn a_cut_ends_what_is_there_and_what_comes_until_it_heals() {
        let (server, proxy) = pair();
        let (mut client, mut taken) = connect(&proxy, &server);
        proxy.cut();
        assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
        assert!(matches!(taken.read(&mut [0]), Ok(0) | Err(_)));
        let mut refused = TcpStream::connect(proxy.address()).expect("the port is open");
        refused.set_read_timeout(Some(LIMIT)).expect("a limit");
        assert!(matches!(refused.read(&mut [0]), Ok(0) | Err(_)));
        proxy.heal();
        let (mut client, mut taken) = connect(&proxy, &server);
        taken.write_all(b"c").expect("written");
        assert_eq!(read(&mut client).expect("read"), b'c');
        proxy.reset();
        assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
        drop(connect(&proxy, &server));
    }

    #[test]
    fn what_is_stalled_arrives_after_it_heals() {
        let (server, proxy) = pair();
        let (mut client, mut taken) = connect(&proxy, &server);
        proxy.stall();
        client.write_all(b"d").expect("written");
        taken.set_read_timeout(Some(QUIET)).expect("a limit");
        let nothing = read(&mut taken).expect_err("nothing arrives");
        assert!(
            matches!(
                nothing.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ),
            "{nothing}"
        );
        proxy.heal();
        taken.set_read_timeout(Some(LIMIT)).expect("a limit");
        assert_eq!(read(&mut taken).expect("read"), b'd');
    }

    #[test]
    fn a_delay_holds_each_step() {
        let (server, proxy) = pair();
        let (mut client, mut taken) = connect(&proxy, &server);
        let delay = Duration::from_millis(50);
        proxy.delay(delay);
        let begun = std::time::Instant::now();
        client.write_all(b"e").expect("written");
        assert_eq!(read(&mut taken).expect("read"), b'e');
        taken.write_all(b"f").expect("written");
        assert_eq!(read(&mut client).expect("read"), b'f');
        assert!(begun.elapsed() >= 2 * delay, "{:?}", begun.elapsed());
    }
}
