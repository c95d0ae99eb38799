//! What a server sends without being asked (PC-11): kept in a bounded queue until somebody takes it.

use std::collections::VecDeque;

use crate::fields::ErrorFields;

/// How many unasked messages are kept.
pub const MESSAGES_MAX: usize = 1_024;

/// Something the server sent without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AsyncMessage {
    /// A notice.
    Notice(Box<ErrorFields>),
    /// A NOTIFY.
    Notification {
        /// The server process that sent it.
        process_id: i32,
        /// The channel.
        channel: String,
        /// The payload, maybe empty.
        payload: String,
    },
    /// A setting has changed.
    Parameter {
        /// Its name.
        name: String,
        /// Its value now.
        value: String,
    },
}

/// The queue. When it is full the oldest goes, and is counted.
#[derive(Debug, Default)]
pub(super) struct Messages {
    queue: VecDeque<AsyncMessage>,
    lost: u64,
}

impl Messages {
    pub(super) fn push(&mut self, message: AsyncMessage) {
        if self.queue.len() >= MESSAGES_MAX {
            self.queue.pop_front();
            self.lost += 1;
        }
        self.queue.push_back(message);
    }

    pub(super) fn pop(&mut self) -> Option<AsyncMessage> {
        self.queue.pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn take(&mut self) -> Vec<AsyncMessage> {
        std::mem::take(&mut self.queue).into()
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_the_queue_is_full_and_is_counted() {
        let mut messages = Messages::default();
        let message = |i: usize| AsyncMessage::Parameter {
            name: i.to_string(),
            value: String::new(),
        };
        (0..MESSAGES_MAX + 3).for_each(|i| messages.push(message(i)));
        assert_eq!((messages.len(), messages.lost()), (MESSAGES_MAX, 3));
        assert_eq!(messages.pop(), Some(message(3)));
    }
}
