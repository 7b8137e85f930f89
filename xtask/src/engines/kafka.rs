//! Kafka 4 in KRaft mode, broker and controller in one process, from Maven's jars.

use super::launch::{Launch, Ready};
use super::{Durability, Place, Recipe, Start, fetch};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = "4.4.0";

pub(super) const RECIPE: Recipe = Recipe {
    name: "kafka",
    from: "java 17 or newer, mvn, and the jars of kafka_2.13",
    get,
    launch,
    ack,
};

/// The newest that is published of the command-line tools; they speak with newer servers too.
const TOOLS_VERSION: &str = "4.3.1";

/// A project of Maven that needs an artifact of Kafka, and a logger, which it does not bring.
fn pom(artifact: &str, version: &str) -> String {
    format!(
        "<project><modelVersion>4.0.0</modelVersion>\
         <groupId>strait</groupId><artifactId>{artifact}-jars</artifactId><version>1</version><packaging>pom</packaging>\
         <dependencies><dependency><groupId>org.apache.kafka</groupId><artifactId>{artifact}</artifactId>\
         <version>{version}</version></dependency><dependency><groupId>org.apache.logging.log4j</groupId>\
         <artifactId>log4j-slf4j-impl</artifactId><version>2.25.5</version></dependency></dependencies></project>\n"
    )
}

const LOGGING: &str = "rootLogger.level = WARN\nrootLogger.appenderRef.s.ref = S\nappender.s.type = Console\n\
appender.s.name = S\nappender.s.layout.type = PatternLayout\nappender.s.layout.pattern = %d %p %c{1} %m%n\n";

fn get(place: &Place) -> Result<PathBuf, String> {
    let dir = place.installed("kafka", VERSION);
    jars(dir, "kafka_2.13", VERSION)
}

/// The command-line tools, in a directory of their own: their jars and those of the server do not go together.
pub(super) fn tools(place: &Place) -> Result<PathBuf, String> {
    let dir = place.installed("kafka-tools", TOOLS_VERSION);
    jars(dir, "kafka-tools", TOOLS_VERSION)
}

/// Java, and a directory with the jars of an artifact and of all that it needs.
fn jars(dir: PathBuf, artifact: &str, version: &str) -> Result<PathBuf, String> {
    fetch::program("java", &["default-jre-headless"])?;
    if dir.is_dir() {
        return Ok(dir);
    }
    let mvn = fetch::program("mvn", &["maven"])?;
    println!("installing the jars of {artifact} {version}");
    fetch::filled(&dir, |new| {
        let written = fs::write(new.join("pom.xml"), pom(artifact, version))
            .and_then(|()| fs::write(new.join("log4j2.properties"), LOGGING));
        written.map_err(|error| format!("{}: {error}", new.display()))?;
        let mut command = Command::new(mvn);
        command.args(["-B", "-q", "-f"]).arg(new.join("pom.xml"));
        command.arg("org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies");
        command.arg("-DincludeScope=runtime");
        fetch::run(command.arg(format!("-DoutputDirectory={}", new.join("jars").display())))
    })?;
    Ok(dir)
}

fn launch(start: &Start<'_>) -> Result<Launch, String> {
    let properties = start.data.join("server.properties");
    fs::write(&properties, configuration(start))
        .map_err(|error| format!("{}: {error}", properties.display()))?;
    let mut format = java(start.got);
    format.args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
    format.args([
        "kafka.tools.StorageTool",
        "format",
        "-t",
        &cluster_id()?,
        "-c",
    ]);
    fetch::run(format.arg(&properties))?;
    let mut command = java(start.got);
    command.args(["-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "kafka.Kafka"]);
    command.arg(&properties);
    Ok(Launch {
        command,
        ready: Ready::Accepts,
    })
}

fn java(dir: &Path) -> Command {
    let mut command = Command::new("java");
    let logging = dir.join("log4j2.properties");
    command.arg(format!("-Dlog4j2.configurationFile={}", logging.display()));
    command.arg("-cp").arg(dir.join("jars/*"));
    command
}

/// 16 random bytes in base64url without padding: 22 letters, of which the last carries two bits.
fn cluster_id() -> Result<String, String> {
    use std::io::Read;
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = [0; 22];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .map_err(|error| format!("/dev/urandom: {error}"))?;
    let mut id: String = random
        .iter()
        .map(|b| char::from(LETTERS[usize::from(b % 64)]))
        .collect();
    // An id that begins with a dash would be taken for an option.
    id.replace_range(0..1, "s");
    id.replace_range(21..22, "A");
    Ok(id)
}

fn configuration(start: &Start<'_>) -> String {
    let flush = match start.durability {
        Durability::Fsync => "log.flush.interval.messages=1\n",
        Durability::Default => "",
    };
    let (port, controller) = (start.port, start.second_port);
    let mut text = format!(
        "process.roles=broker,controller\nnode.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\n\
         log.dirs={}\nnum.partitions=1\nauto.create.topics.enable=false\n\
         group.initial.rebalance.delay.ms=0\ngroup.consumer.min.heartbeat.interval.ms=200\n\
         group.consumer.heartbeat.interval.ms=200\noffsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=4\n{flush}",
        start.data.join("logs").display()
    );
    for topic in ["transaction.state.log", "share.coordinator.state.topic"] {
        for (setting, value) in [
            ("replication.factor", 1),
            ("min.isr", 1),
            ("num.partitions", 4),
        ] {
            text.push_str(&format!("{topic}.{setting}={value}\n"));
        }
    }
    text
}

fn ack(durability: Durability) -> &'static str {
    match durability {
        Durability::Fsync => "after an fsync (flush.messages=1)",
        Durability::Default => "without any sync of its own",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_durable_one_flushes_each_message() {
        let text = |durability| {
            configuration(&Start {
                got: Path::new("kafka"),
                data: Path::new("/data"),
                port: 9,
                second_port: 10,
                durability,
            })
        };
        let durable = text(Durability::Fsync);
        assert!(durable.contains("\nlog.flush.interval.messages=1\n"));
        assert!(durable.contains("\nlog.dirs=/data/logs\n"));
        assert!(!text(Durability::Default).contains("flush"));
    }

    #[test]
    fn the_project_needs_the_artifact_in_its_version() {
        let text = pom("kafka-tools", TOOLS_VERSION);
        let wanted =
            format!("<artifactId>kafka-tools</artifactId><version>{TOOLS_VERSION}</version>");
        assert!(text.contains(&wanted), "{text}");
    }

    #[test]
    fn a_cluster_id_has_22_letters_and_is_no_option() {
        let id = cluster_id().unwrap_or_default();
        assert_eq!(id.len(), 22);
        assert!(!id.starts_with('-'));
    }
}
