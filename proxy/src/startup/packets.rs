//! Startup packets that came before: what they ask for is not read again, as most are like another.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::packet::Wanted;

/// Packets that are kept.
const KEPT_MAX: usize = 32;
/// The longest one that is.
const LENGTH_MAX: usize = 512;

/// See the module. What a packet asks for depends on the manifest: the packets go with it.
#[derive(Default)]
pub(super) struct Packets(Mutex<VecDeque<(Box<[u8]>, Arc<Wanted>)>>);

impl Packets {
    fn known(&self) -> MutexGuard<'_, VecDeque<(Box<[u8]>, Arc<Wanted>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // an entry is there or it is not
    }

    /// What this packet asks for, if one like it was accepted before.
    pub(super) fn find(&self, packet: &[u8]) -> Option<Arc<Wanted>> {
        let known = self.known();
        let (_, asks) = known.iter().find(|(bytes, _)| **bytes == *packet)?;
        Some(Arc::clone(asks))
    }

    /// Keeps it in mind.
    pub(super) fn remember(&self, packet: Box<[u8]>, asks: &Arc<Wanted>) {
        if packet.len() <= LENGTH_MAX {
            let mut known = self.known();
            known.truncate(KEPT_MAX - 1);
            known.push_front((packet, Arc::clone(asks)));
        }
    }
}

#[cfg(test)]
mod tests {
    use crds::Routing;
    use pgnet::startup::ProtocolVersion;

    use super::super::packet::wanted;
    use super::*;

    fn asks(user: &str) -> Arc<Wanted> {
        let parameters = vec![("user".to_owned(), user.to_owned())];
        Arc::new(wanted(ProtocolVersion::V3_0, parameters, &Routing::default()).unwrap())
    }

    #[test]
    fn a_packet_is_found_by_all_of_its_bytes_and_few_are_kept() {
        let packets = Packets::default();
        for n in 0..2 * KEPT_MAX {
            packets.remember(n.to_string().into_bytes().into(), &asks(&n.to_string()));
        }
        packets.remember(vec![b'x'; LENGTH_MAX + 1].into(), &asks("long"));
        let found = |n: usize| {
            packets
                .find(n.to_string().as_bytes())
                .map(|asks| asks.user.clone())
        };
        let last = 2 * KEPT_MAX - 1;
        assert_eq!(found(last), Some(last.to_string()));
        assert_eq!(found(last - KEPT_MAX), None);
        assert!(packets.find(b"").is_none() && packets.find(&[b'x'; LENGTH_MAX + 1]).is_none());
        assert_eq!(packets.known().len(), KEPT_MAX);
    }
}
