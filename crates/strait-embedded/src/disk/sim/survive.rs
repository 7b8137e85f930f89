//! What is left of unsynced writes after a crash or a failed sync.

use std::ops::Range;

use super::Crash;
use super::content::Content;
use crate::disk::rng::Rng;

/// What a disk writes as one: a sector never holds a mixture on a disk that keeps its promise. Ours breaks it at times.
const SECTOR: u64 = 512;

/// A change of a file that is not durable yet.
#[derive(Debug, Clone)]
pub(super) enum Pending {
    Write { pos: u64, data: Vec<u8> },
    Zero(Range<u64>),
    Len(u64),
}

impl Pending {
    /// Carries it out on `content`, whole.
    pub(super) fn apply(&self, content: &mut Content) {
        match self {
            Pending::Write { pos, data } => content.write(data, *pos),
            Pending::Zero(range) => content.zero(range.clone()),
            Pending::Len(len) => content.set_len(*len),
        }
    }
}

/// Decides, sector by sector, what survives.
pub(super) struct Fate<'a> {
    how: Crash,
    rng: &'a mut Rng,
    /// Of 16 sectors, how many are kept on average; every crash has its own.
    kept_of_16: u64,
    /// [`Crash::LaterKept`]: how many sectors are lost before the first one is kept.
    lost_first: u64,
}

impl<'a> Fate<'a> {
    pub(super) fn new(how: Crash, rng: &'a mut Rng) -> Fate<'a> {
        Fate {
            how,
            kept_of_16: [1, 8, 15][rng.below(3) as usize],
            lost_first: rng.below(12),
            rng,
        }
    }

    /// True when a change of names or of a length survives.
    pub(super) fn keeps(&mut self) -> bool {
        match self.how {
            Crash::AllLost => false,
            Crash::AllKept | Crash::Process => true,
            Crash::Random | Crash::LaterKept => self.rng.one_in(2),
        }
    }

    /// Carries out on `durable` what survives of `pending`.
    pub(super) fn settle(&mut self, pending: &[Pending], durable: &mut Content) {
        for change in pending {
            match change {
                Pending::Len(len) => {
                    if self.keeps() {
                        durable.set_len(*len);
                    }
                }
                Pending::Write { pos, data } => self.sectors(*pos, data, durable),
                Pending::Zero(range) => {
                    let zeros = vec![0; (range.end - range.start) as usize];
                    self.sectors(range.start, &zeros, durable);
                }
            }
        }
    }

    fn sectors(&mut self, pos: u64, data: &[u8], durable: &mut Content) {
        let mut done = 0;
        while done < data.len() {
            let at = pos + done as u64;
            let len = ((SECTOR - at % SECTOR) as usize).min(data.len() - done);
            let sector = &data[done..done + len];
            if let Some(part) = self.part_kept(len) {
                durable.write(&sector[part.clone()], at + part.start as u64);
            }
            done += len;
        }
    }

    fn part_kept(&mut self, len: usize) -> Option<Range<usize>> {
        match self.how {
            Crash::AllLost => None,
            Crash::AllKept | Crash::Process => Some(0..len),
            Crash::LaterKept => {
                if self.lost_first > 0 {
                    self.lost_first -= 1;
                    return None;
                }
                Some(0..len)
            }
            Crash::Random if self.rng.one_in(12) => {
                let cut = self.rng.below(len as u64) as usize;
                Some(if self.rng.one_in(2) { 0..cut } else { cut..len })
            }
            Crash::Random => (self.rng.below(16) < self.kept_of_16).then_some(0..len),
        }
    }
}
