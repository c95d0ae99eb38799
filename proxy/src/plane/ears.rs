//! What a client listens to, and the notifications it has not been told yet.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};

/// Bytes of notifications that wait for a client that does not take them (a long transaction, a slow reader). More: it goes.
const MAIL_MAX: usize = 8 << 20;

/// A move from the client's own server connection to the hub.
#[derive(Debug)]
struct Cut {
    token: u64,
    channels: BTreeSet<Bytes>,
    /// The mark has come: what follows is the client's.
    passed: bool,
    held: Vec<Bytes>,
}

/// See the module. Who never listened has no room for it.
#[derive(Debug, Default)]
pub(super) struct Ears {
    open: RefCell<Option<Box<Open>>>,
    /// Bytes of its mail.
    size: Cell<usize>,
}

#[derive(Debug, Default)]
struct Open {
    channels: BTreeSet<Bytes>,
    mail: VecDeque<Bytes>,
    cut: Option<Cut>,
    /// Of what it said last it is to hear before its statement ends.
    tokens: u64,
}

impl Ears {
    fn opened(&self) -> RefMut<'_, Open> {
        RefMut::map(self.open.borrow_mut(), |open| &mut **open.get_or_insert_default())
    }

    /// Whether it listens at all.
    pub(super) fn listens(&self) -> bool {
        self.open
            .borrow()
            .as_ref()
            .is_some_and(|open| !open.channels.is_empty())
    }

    /// Its channels.
    pub(super) fn channels(&self) -> BTreeSet<Bytes> {
        self.open
            .borrow()
            .as_ref()
            .map_or_else(BTreeSet::new, |open| open.channels.clone())
    }

    /// It listens from now on; with `cut`, from that mark on. Returns those that are new.
    pub(super) fn open(&self, channels: &[Bytes], cut: Option<u64>) -> Vec<Bytes> {
        let mut open = self.opened();
        let new: Vec<Bytes> = channels
            .iter()
            .filter(|c| open.channels.insert((*c).clone()))
            .cloned()
            .collect();
        if let Some(token) = cut {
            open.cut = Some(Cut {
                token,
                channels: new.iter().cloned().collect(),
                passed: false,
                held: Vec::new(),
            });
        }
        new
    }

    /// It no longer listens. Returns those it did listen on.
    pub(super) fn close(&self, channels: &[Bytes]) -> Vec<Bytes> {
        let mut open = self.open.borrow_mut();
        let Some(open) = open.as_mut() else {
            return Vec::new();
        };
        channels
            .iter()
            .filter(|c| open.channels.remove(*c))
            .cloned()
            .collect()
    }

    /// The mark of a move came by. True if it was this client's.
    pub(super) fn cut(&self, token: u64) -> bool {
        let mut open = self.open.borrow_mut();
        let cut = open.as_mut().and_then(|open| open.cut.as_mut());
        let Some(cut) = cut.filter(|c| c.token == token) else {
            return false;
        };
        cut.passed = true;
        true
    }

    /// Whether a move still waits for its mark.
    pub(super) fn awaits_cut(&self) -> bool {
        let open = self.open.borrow();
        let cut = open.as_ref().and_then(|open| open.cut.as_ref());
        cut.is_some_and(|c| !c.passed)
    }

    /// The move is done: `before` came on the client's own connection, ahead of the mark.
    pub(super) fn end_cut(&self, before: Vec<Bytes>) -> bool {
        let cut = self.open.borrow_mut().as_mut().and_then(|open| open.cut.take());
        let held = cut.map(|c| c.held).unwrap_or_default();
        before.into_iter().chain(held).all(|frame| self.push(frame))
    }

    /// A notification on one of its channels. False: there is no more room.
    pub(super) fn hear(&self, channel: &[u8], frame: &Bytes) -> bool {
        if let Some(cut) = self.open.borrow_mut().as_mut().and_then(|open| open.cut.as_mut()) {
            if cut.passed || !cut.channels.contains(channel) {
                cut.held.push(frame.clone());
            }
            return true;
        }
        self.push(frame.clone())
    }

    /// Something to tell the client between two of its statements. False: there is no more room.
    pub(super) fn push(&self, frame: Bytes) -> bool {
        self.size.set(self.size.get() + frame.len());
        self.opened().mail.push_back(frame);
        self.size.get() <= MAIL_MAX
    }

    /// Whether there is something to tell.
    pub(super) fn has_mail(&self) -> bool {
        self.size.get() > 0
    }

    /// Takes what there is to tell, some of it where it is much.
    pub(super) fn take(&self, out: &mut BytesMut, most: usize) {
        let mut open = self.opened();
        while out.len() < most {
            let Some(frame) = open.mail.pop_front() else { break };
            self.size.set(self.size.get() - frame.len());
            out.extend_from_slice(&frame);
        }
    }

    /// A number no other move of this client has.
    pub(super) fn next_token(&self) -> u64 {
        let mut open = self.opened();
        open.tokens += 1;
        open.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(ears: &Ears) -> String {
        let mut out = BytesMut::new();
        ears.take(&mut out, usize::MAX);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn what_comes_around_a_move_is_heard_once_and_in_order() {
        let channel = Bytes::from_static(b"c");
        let hear = |ears: &Ears, text: &'static str| ears.hear(b"c", &Bytes::from_static(text.as_bytes()));
        let ears = Ears::default();
        assert_eq!(
            ears.open(std::slice::from_ref(&channel), Some(7)),
            vec![channel.clone()]
        );
        hear(&ears, "1"); // both connections listen: this one the client's own connection tells, too
        assert!(ears.awaits_cut() && !ears.cut(6) && ears.cut(7) && !ears.awaits_cut());
        hear(&ears, "2"); // behind the mark, while the client's own is not read yet
        assert!(!ears.has_mail(), "nothing before the move is done");
        ears.end_cut(vec![Bytes::from_static(b"1")]);
        hear(&ears, "3");
        assert_eq!(told(&ears), "123");
        assert_eq!(
            ears.open(std::slice::from_ref(&channel), None),
            Vec::<Bytes>::new(),
            "known already"
        );
        assert_eq!(ears.close(std::slice::from_ref(&channel)), vec![channel]);
        assert!(!ears.listens());
    }

    #[test]
    fn what_is_never_taken_has_an_end() {
        let ears = Ears::default();
        let large = Bytes::from(vec![b'x'; 1 << 20]);
        assert_eq!(
            (0..100).take_while(|_| ears.push(large.clone())).count(),
            MAIL_MAX >> 20
        );
    }
}
