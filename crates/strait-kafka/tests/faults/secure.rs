//! A broker that speaks TLS and asks for a password.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use strait_core::events::{Events, TopicSpec};
use strait_core::{Engine, Error, Health, Kind};
use strait_kafka::{Kafka, Options};

use crate::broker::{self, Broker};

const SECRET: &str = "hunter2-of-ada";

/// Makes a key and a certificate for the loopback address, with the tool that comes with Java.
fn certificate(dir: &Path) {
    let keytool = |arguments: &[&str]| {
        let mut keytool = Command::new("keytool");
        keytool
            .args(arguments)
            .arg("-keystore")
            .arg(dir.join("broker.p12"));
        keytool.args([
            "-storetype",
            "PKCS12",
            "-storepass",
            "changeit",
            "-alias",
            "broker",
        ]);
        keytool.stderr(Stdio::null()).output().unwrap()
    };
    let made = keytool(&[
        "-genkeypair",
        "-keyalg",
        "RSA",
        "-dname",
        "CN=localhost",
        "-ext",
        "SAN=ip:127.0.0.1",
        "-validity",
        "2",
    ]);
    assert!(made.status.success(), "{made:?}");
    let exported = keytool(&["-exportcert", "-rfc"]);
    assert!(exported.status.success(), "{exported:?}");
    std::fs::write(dir.join("ca.pem"), exported.stdout).unwrap();
}

fn settings(dir: &Path) -> String {
    certificate(dir);
    let clients = "listener.name.clients";
    format!(
        "{clients}.sasl.enabled.mechanisms=PLAIN\n\
         {clients}.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_ada=\"{SECRET}\";\n\
         {clients}.ssl.keystore.location={}\n{clients}.ssl.keystore.password=changeit\n{clients}.ssl.keystore.type=PKCS12\n",
        dir.join("broker.p12").display()
    )
}

/// Opens the address, and gives why that is not possible.
async fn refused(url: &str) -> Error {
    let options = Options {
        strict: true,
        first_contact: Duration::from_secs(20),
        ..Options::from_url(url).unwrap()
    };
    let error = Kafka::open(options).await.map(drop).unwrap_err();
    let shown = format!("{error:?} {error}");
    assert!(
        !shown.contains(SECRET) && !shown.contains("guessed"),
        "{shown}"
    );
    error
}

/// With the right password over TLS it is a cluster like any other; what is wrong is named, never shown, and no call hangs.
#[tokio::test(flavor = "multi_thread")]
async fn tls_and_a_password_are_taken_and_faults_are_named() {
    let Some(jars) = broker::jars() else { return };
    let start = tokio::task::spawn_blocking(move || Broker::start(jars, "SASL_SSL", settings));
    let broker = start.await.unwrap();
    let (at, ca) = (broker.address(), broker.dir().join("ca.pem"));
    let ca = format!("mechanism=PLAIN&ca={}", ca.display());

    let right = Options::from_url(&format!("kafka+ssl://ada:{SECRET}@{at}/?{ca}")).unwrap();
    let kafka = Kafka::open(right).await.unwrap();
    let mut health = kafka.health();
    let up = tokio::time::timeout(
        Duration::from_secs(60),
        health.wait_for(|now| *now == Health::Up),
    );
    up.await.unwrap().unwrap();
    let topic = TopicSpec::new("orders".parse().unwrap()).partitions(1);
    assert_eq!(kafka.declare(topic).await.unwrap().partitions.len(), 1);
    kafka.close(Duration::from_secs(10)).await;

    let wrong = format!("kafka+ssl://ada:guessed@{at}/?{ca}");
    let plain = format!("kafka://{at}/");
    let unknown = format!("kafka+ssl://ada:{SECRET}@{at}/?mechanism=PLAIN");
    let (wrong, plain, unknown) = tokio::join!(refused(&wrong), refused(&plain), refused(&unknown));
    let said = wrong.to_string().to_lowercase();
    assert!(said.contains("authentication"), "{wrong}");
    assert_eq!(plain.kind(), Kind::Unavailable, "{plain}");
    assert!(unknown.to_string().contains("certificate"), "{unknown}");
}
