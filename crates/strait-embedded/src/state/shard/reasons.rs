//! Equal reasons are kept once: a million messages that wait for one broken service have one text among them.

use std::sync::Arc;

use rapidhash::RapidHashMap;

/// Bytes of different texts that a partition of a group keeps.
const MOST: usize = 1 << 20;
/// Stands for each text beyond [`MOST`].
const NOT_KEPT: &str =
    "not kept: the waiting messages of this partition have more than 1 MiB of different reasons";

/// The number of a text; 0 for none.
pub(super) type ReasonId = u32;

#[derive(Debug, Default)]
pub(super) struct Reasons {
    ids: RapidHashMap<Arc<str>, ReasonId>,
    /// By id, from 1 on: the text, and how many have it.
    texts: Vec<(Arc<str>, u32)>,
    free: Vec<ReasonId>,
    bytes: usize,
}

impl Reasons {
    /// One more has this text.
    pub(super) fn take(&mut self, text: &str) -> ReasonId {
        if text.is_empty() {
            return 0;
        }
        if let Some(id) = self.ids.get(text) {
            self.texts[*id as usize - 1].1 += 1;
            return *id;
        }
        if self.bytes + text.len() > MOST && text != NOT_KEPT {
            return self.take(NOT_KEPT);
        }
        let text: Arc<str> = text.into();
        self.bytes += text.len();
        let id = match self.free.pop() {
            Some(id) => {
                self.texts[id as usize - 1] = (text.clone(), 1);
                id
            }
            None => {
                self.texts.push((text.clone(), 1));
                self.texts.len() as ReasonId
            }
        };
        self.ids.insert(text, id);
        id
    }

    pub(super) fn get(&self, id: ReasonId) -> Option<Arc<str>> {
        let (text, _) = self.texts.get((id as usize).checked_sub(1)?)?;
        Some(text.clone())
    }

    /// One fewer has it.
    pub(super) fn give_back(&mut self, id: ReasonId) {
        let Some(at) = (id as usize).checked_sub(1) else {
            return;
        };
        let Some((text, count)) = self.texts.get_mut(at) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.bytes -= text.len();
            self.ids.remove(&**text);
            *text = Arc::default();
            self.free.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_kept_once_and_let_go_with_the_last() {
        let mut reasons = Reasons::default();
        assert_eq!((reasons.take(""), reasons.get(0)), (0, None));
        let (a, b) = (reasons.take("a"), reasons.take("b"));
        assert_eq!((reasons.take("a"), reasons.bytes), (a, 2));
        reasons.give_back(a);
        assert_eq!(reasons.get(a).as_deref(), Some("a"));
        reasons.give_back(a);
        assert_eq!((reasons.bytes, reasons.ids.len()), (1, 1));
        assert_eq!(reasons.take("c"), a, "its number is used again");
        assert_eq!(reasons.get(b).as_deref(), Some("b"));
    }

    #[test]
    fn different_texts_are_bounded() {
        let mut reasons = Reasons::default();
        let ids: Vec<_> = (0..2000)
            .map(|i| reasons.take(&format!("{i:01000}")))
            .collect();
        assert!(reasons.bytes <= MOST + NOT_KEPT.len());
        let last = *ids.last().unwrap();
        assert_eq!(reasons.get(last).as_deref(), Some(NOT_KEPT));
        ids.into_iter().for_each(|id| reasons.give_back(id));
        assert_eq!((reasons.bytes, reasons.ids.len()), (0, 0));
    }
}
