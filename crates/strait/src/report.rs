//! What an app will do, said once before it does it.

use std::fmt;

use strait_core::Offer;

/// The start-up report of an app. `Display` prints it for people.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// One entry per consumer, in the order in which they are served.
    pub consumers: Vec<ConsumerReport>,
    /// What an operator should know, in sentences.
    pub warnings: Vec<String>,
}

/// One consumer of a [`Report`].
#[derive(Debug, Clone)]
pub struct ConsumerReport {
    /// The topic.
    pub topic: String,
    /// The group.
    pub group: String,
    /// The engine, without secrets.
    pub engine: String,
    /// What an acknowledgement means: `fsync`, `os` or `memory`.
    pub durability: &'static str,
    /// The guarantee in words.
    pub guarantee: &'static str,
    /// The number of attempts.
    pub attempts: u32,
    /// What it uses, and how the engine has it.
    pub features: Vec<Feature>,
}

/// Something that a consumer uses.
#[derive(Debug, Clone)]
pub struct Feature {
    /// What.
    pub name: &'static str,
    /// How it is there.
    pub offer: Offer,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topics = self
            .consumers
            .iter()
            .map(|c| c.topic.len())
            .max()
            .unwrap_or(0);
        let groups = self
            .consumers
            .iter()
            .map(|c| c.group.len())
            .max()
            .unwrap_or(0);
        for consumer in &self.consumers {
            let ConsumerReport {
                topic,
                group,
                engine,
                durability,
                guarantee,
                attempts,
                ..
            } = consumer;
            write!(
                f,
                "{topic:topics$}  {group:groups$}  {engine}   durable {durability}   {guarantee}   "
            )?;
            write!(f, "{attempts} attempts, then dead letters")?;
            for feature in &consumer.features {
                match feature.offer {
                    Offer::Native => {}
                    offer => write!(f, "   {} {offer}", feature.name)?,
                }
            }
            writeln!(f)?;
        }
        for warning in &self.warnings {
            writeln!(f, "warn    {warning}")?;
        }
        Ok(())
    }
}
