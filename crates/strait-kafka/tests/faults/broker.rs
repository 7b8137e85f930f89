//! A broker of the test's own, which it may kill.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Long enough for a loaded machine; reached only by a failing test.
const STARTS: Duration = Duration::from_secs(120);

/// The jars that `cargo xtask engines up kafka` fetched. `None` where the suites have no Kafka either.
pub(crate) fn jars() -> Option<PathBuf> {
    strait_conformance::server("STRAIT_KAFKA", "kafka")?;
    let engines = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/engines");
    let found = std::fs::read_dir(engines).into_iter().flatten().flatten();
    let fetched = found.map(|entry| entry.path());
    // Beside it there may be the jars of the tools.
    let is_server = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let version = name.and_then(|name| name.strip_prefix("kafka-"));
        version.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
    };
    fetched.filter(is_server).max()
}

/// A broker and controller in one process, with a directory of its own.
pub(crate) struct Broker {
    dir: tempfile::TempDir,
    jars: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Broker {
    /// A broker that runs. Clients speak `protocol` with it (`PLAINTEXT`, `SASL_SSL` ..), for which there may be more settings, made
    /// in its directory.
    pub(crate) fn start(jars: PathBuf, protocol: &str, settings: impl Fn(&Path) -> String) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let free = [free(), free(), free()];
        let [port, own, controller] = free.each_ref().map(|at| at.local_addr().unwrap().port());
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=CLIENTS://127.0.0.1:{port},OWN://127.0.0.1:{own},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=CLIENTS://127.0.0.1:{port},OWN://127.0.0.1:{own}\n\
             listener.security.protocol.map=CLIENTS:{protocol},OWN:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             controller.listener.names=CONTROLLER\ninter.broker.listener.name=OWN\n\
             log.dirs={}\nlog.flush.interval.messages=1\n\
             group.initial.rebalance.delay.ms=0\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=4\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=4\n{}",
            dir.path().join("logs").display(),
            settings(dir.path()),
        );
        std::fs::write(dir.path().join("server.properties"), text).unwrap();
        drop(free);
        let mut broker = Broker {
            dir,
            jars,
            port,
            child: None,
        };
        let format = broker
            .java("-Xmx128m", "kafka.tools.StorageTool")
            .args(["format", "-t", "sAAAAAAAAAAAAAAAAAAAAA", "-c"])
            .arg(broker.dir.path().join("server.properties"))
            .status();
        assert!(format.unwrap().success());
        broker.spawn();
        broker
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn java(&self, memory: &str, class: &str) -> Command {
        let mut java = Command::new("java");
        let logging = self.jars.join("log4j2.properties");
        java.arg(memory).arg("-cp").arg(self.jars.join("jars/*"));
        java.arg(format!("-Dlog4j2.configurationFile={}", logging.display()));
        java.arg(class).stdout(Stdio::null()).stderr(Stdio::null());
        java
    }

    /// Starts it and waits until it takes connections.
    fn spawn(&mut self) {
        let mut java = self.java("-Xmx256m", "kafka.Kafka");
        java.arg(self.dir.path().join("server.properties"));
        self.child = Some(java.spawn().unwrap());
        let deadline = Instant::now() + STARTS;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "the broker does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Kills it, and starts it anew on what is on its disk.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.spawn();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}
