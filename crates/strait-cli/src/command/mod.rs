//! One file per command.

pub(crate) mod backup;
pub(crate) mod config;
pub(crate) mod consume;
pub(crate) mod describe;
pub(crate) mod dlq;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod follow;
pub(crate) mod group;
pub(crate) mod inspect;
pub(crate) mod man;
pub(crate) mod member;
pub(crate) mod mirror;
pub(crate) mod object;
pub(crate) mod produce;
pub(crate) mod render;
pub(crate) mod skip;
pub(crate) mod topic;
pub(crate) mod upgrade;
pub(crate) mod verify;
pub(crate) mod why;

use crate::args::Global;
use crate::interrupt::Interrupt;
use crate::out::Out;

/// What every command gets.
#[derive(Debug)]
pub(crate) struct Ctx {
    pub(crate) global: Global,
    pub(crate) out: Out,
    pub(crate) interrupt: Interrupt,
}
