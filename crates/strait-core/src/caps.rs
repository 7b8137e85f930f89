//! What an engine offers for a feature, and how a wish is held against it.

use std::fmt;

use crate::error::{Error, Kind, codes};

/// How a feature is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Offer {
    /// The engine does it itself.
    Native,
    /// It is built over the engine; the text names the cost.
    Layered(&'static str),
    /// It cannot be had; the text names the nearest alternative.
    Refused(&'static str),
}

impl Offer {
    /// True unless refused.
    pub fn is_there(self) -> bool {
        !matches!(self, Offer::Refused(_))
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Offer::Native => f.write_str("native"),
            Offer::Layered(cost) => write!(f, "layered ({cost})"),
            Offer::Refused(nearest) => write!(f, "refused ({nearest})"),
        }
    }
}

/// One wish that an engine cannot fulfil.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The object that asks, for example `events "orders", group "billing"`.
    pub object: String,
    /// The engine.
    pub engine: String,
    /// What was asked for.
    pub wish: &'static str,
    /// The nearest alternative.
    pub nearest: &'static str,
}

/// Collects the wishes of a whole app and turns the gaps into ONE error, before the first message.
///
/// ```
/// use strait_core::{Needs, Offer};
/// let mut needs = Needs::default();
/// needs.want("events `orders`", "kafka", "delay", Offer::Refused("push a job: lane `jobs`"));
/// needs.want("events `orders`", "kafka", "order by key", Offer::Native);
/// assert_eq!(needs.gaps().len(), 1);
/// assert!(needs.into_result().unwrap_err().is("needs"));
/// ```
#[derive(Debug, Default)]
pub struct Needs {
    gaps: Vec<Gap>,
}

impl Needs {
    /// Holds a wish against an offer.
    pub fn want(
        &mut self,
        object: impl Into<String>,
        engine: impl Into<String>,
        wish: &'static str,
        offer: Offer,
    ) {
        if let Offer::Refused(nearest) = offer {
            self.gaps.push(Gap {
                object: object.into(),
                engine: engine.into(),
                wish,
                nearest,
            });
        }
    }

    /// The gaps so far.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// `Ok` without gaps, else one `Config` error (code `needs`) that lists all of them.
    pub fn into_result(self) -> Result<(), Error> {
        if self.gaps.is_empty() {
            return Ok(());
        }
        let mut text = String::from("this app asks for what its engines cannot do");
        for Gap {
            object,
            engine,
            wish,
            nearest,
        } in &self.gaps
        {
            text.push_str(&format!("\n  {object}  {engine}  {wish}: {nearest}"));
        }
        Err(Error::new(Kind::Config, text).code(codes::NEEDS))
    }
}
