//! The connections of the servers, shared out among the proxies so that the sum holds while their number changes.
//!
//! A share is taken away at once, but given on only when its owner has acknowledged that it keeps to less. What a proxy may have at
//! a moment is thus never more than what is written for it in `shares` or, until it has acknowledged that, in `held`; and
//! these together are never more than everything. All of it is in the status, so that another operator goes on with it.
//!
//! A proxy that is not heard of any more has stopped, as far as anybody can tell: what it had is shared out again.

use crds::status::{BudgetStatus, Share};
use std::collections::BTreeMap;

/// Shares out evenly among `live`: proxies by id, each with the number of the budget it has acknowledged.
pub(super) fn share_out(budget: &mut BudgetStatus, live: &BTreeMap<&str, u64>) {
    let even = Share {
        parts: 1,
        of: u32::try_from(live.len()).unwrap_or(u32::MAX).max(1),
    };
    // What each may have now, whatever is written next.
    let mut may: BTreeMap<&str, Share> = live
        .iter()
        .map(|(id, acked)| (*id, may_have(budget, id, *acked)))
        .collect();
    let mut shares = BTreeMap::new();
    for id in live.keys() {
        let now = may.get(id).copied().unwrap_or(Share::NONE);
        let others = may
            .iter()
            .filter(|(other, _)| *other != id)
            .map(|(_, share)| *share);
        let written = budget.shares.get(*id).copied();
        let is_less = written.is_some_and(|written| !is_more(even, written));
        // Who begins to share out finds everybody with everything: that is only taken away.
        let share = if is_less || budget.number == 0 {
            even
        } else {
            let written = written.unwrap_or(Share::NONE);
            // As much of it as the others have let go of.
            let share = left_by(others).map_or(written, |left| if is_more(even, left) { left } else { even });
            if is_more(written, share) { written } else { share }
        };
        if is_more(share, now) {
            may.insert(id, share);
        }
        shares.insert((*id).to_owned(), share);
    }
    let held = may
        .into_iter()
        .filter(|(id, may)| shares.get(*id).is_some_and(|share| is_more(*may, *share)))
        .map(|(id, may)| (id.to_owned(), may))
        .collect();
    if shares != budget.shares {
        // Above any that was acknowledged, should somebody have taken the status away.
        budget.number = live.values().copied().fold(budget.number, u64::max) + 1;
        budget.shares = shares;
    }
    budget.held = held;
}

/// The most this proxy may have at this moment.
fn may_have(budget: &BudgetStatus, id: &str, acked: u64) -> Share {
    let written = budget.shares.get(id).copied();
    if budget.number > 0 && acked == budget.number {
        return written.unwrap_or(Share::NONE);
    }
    let held = budget.held.get(id).copied();
    match (written, held) {
        // It may have begun before there was anybody who shares out.
        (None, None) => Share::ALL,
        (written, held) => {
            let (written, held) = (written.unwrap_or(Share::NONE), held.unwrap_or(Share::NONE));
            if is_more(held, written) { held } else { written }
        }
    }
}

fn is_more(left: Share, right: Share) -> bool {
    u64::from(left.parts) * u64::from(right.of) > u64::from(right.parts) * u64::from(left.of)
}

/// What these leave of everything. `None`: nothing, or what cannot be written.
fn left_by(shares: impl Iterator<Item = Share>) -> Option<Share> {
    let mut sum = (0u128, 1u128);
    for share in shares {
        let (more, unit) = (u128::from(share.parts), u128::from(share.of.max(1)));
        let whole = sum.1.checked_mul(unit / gcd(sum.1, unit))?;
        let parts = sum.0.checked_mul(whole / sum.1)?;
        sum = (parts.checked_add(more.checked_mul(whole / unit)?)?, whole);
    }
    let (parts, of) = (sum.1.checked_sub(sum.0)?, sum.1);
    let common = gcd(parts, of).max(1);
    Some(Share {
        parts: u32::try_from(parts / common).ok()?,
        of: u32::try_from(of / common).ok()?,
    })
}

fn gcd(mut left: u128, mut right: u128) -> u128 {
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A proxy as it is: it reads what is written when it likes, and takes its time to let go.
    #[derive(Clone, Debug)]
    struct Proxy {
        /// What it keeps to, or would: it may open connections up to this.
        share: Share,
        /// What it has in use: it shrinks later.
        uses: Share,
        read: u64,
        acked: u64,
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin(usize),
        End(usize),
        Read(usize),
        LetGo(usize),
        Acknowledge(usize),
        Operator,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..5usize).prop_map(Step::Begin),
            (0..5usize).prop_map(Step::End),
            (0..5usize).prop_map(Step::Read),
            (0..5usize).prop_map(Step::LetGo),
            (0..5usize).prop_map(Step::Acknowledge),
            Just(Step::Operator),
        ]
    }

    /// Proxies and what is written for them.
    #[derive(Default)]
    struct World {
        budget: BudgetStatus,
        proxies: BTreeMap<String, Proxy>,
    }

    impl World {
        fn take(&mut self, step: &Step) {
            let id = |n: &usize| format!("p{n}");
            let number = self.budget.number;
            match step {
                Step::Begin(n) => {
                    let id = id(n);
                    let share = match number {
                        0 => Share::ALL,
                        _ => self.budget.shares.get(&id).copied().unwrap_or(Share::NONE),
                    };
                    let new = Proxy {
                        share,
                        uses: share,
                        read: number,
                        acked: 0,
                    };
                    self.proxies.entry(id).or_insert(new);
                }
                Step::End(n) => {
                    self.proxies.remove(&id(n));
                }
                Step::Read(n) => {
                    let written = self.budget.shares.get(&id(n)).copied().unwrap_or(Share::NONE);
                    if let Some(proxy) = self.proxies.get_mut(&id(n)).filter(|_| number > 0) {
                        proxy.share = written;
                        proxy.read = number;
                        if is_more(written, proxy.uses) {
                            proxy.uses = written;
                        }
                    }
                }
                Step::LetGo(n) => {
                    if let Some(proxy) = self.proxies.get_mut(&id(n)) {
                        proxy.uses = proxy.share;
                    }
                }
                Step::Acknowledge(n) => {
                    if let Some(proxy) = self.proxies.get_mut(&id(n))
                        && proxy.uses == proxy.share
                    {
                        proxy.acked = proxy.read;
                    }
                }
                Step::Operator => {
                    let live = self.proxies.iter().map(|(id, proxy)| (id.as_str(), proxy.acked));
                    share_out(&mut self.budget, &live.collect());
                }
            }
        }

        fn uses(&self) -> impl Iterator<Item = Share> {
            self.proxies.values().map(|proxy| proxy.uses)
        }
    }

    proptest! {
        #[test]
        fn the_sum_of_what_proxies_use_holds_while_their_number_changes(
            first in 0..5usize, steps in prop::collection::vec(step(), 0..200)
        ) {
            let mut world = World::default();
            // One that began alone, before there was an operator, has everything.
            world.take(&Step::Begin(first));
            world.take(&Step::Operator);
            for step in &steps {
                world.take(step);
                prop_assert!(left_by(world.uses()).is_some(), "{step:?} {:?} {:?}", world.budget, world.proxies);
            }
            // When nothing changes any more, each comes to have its even share.
            for _ in 0..4 {
                for n in 0..5 {
                    world.take(&Step::Read(n));
                    world.take(&Step::LetGo(n));
                    world.take(&Step::Acknowledge(n));
                }
                world.take(&Step::Operator);
            }
            let of = u32::try_from(world.proxies.len()).unwrap();
            prop_assert!(world.budget.held.is_empty(), "{:?}", world.budget);
            for share in world.budget.shares.values() {
                prop_assert_eq!(*share, Share { parts: 1, of });
            }
            prop_assert_eq!(world.budget.shares.len(), world.proxies.len());
        }
    }

    #[test]
    fn a_newcomer_gets_its_share_when_the_others_have_acknowledged_theirs() {
        let mut budget = BudgetStatus::default();
        share_out(&mut budget, &BTreeMap::from([("a", 0)]));
        assert_eq!((budget.number, budget.shares["a"]), (1, Share::ALL));
        share_out(&mut budget, &BTreeMap::from([("a", 1), ("b", 1)]));
        let half = Share { parts: 1, of: 2 };
        assert_eq!((budget.shares["a"], budget.shares["b"]), (half, Share::NONE));
        assert_eq!(budget.held["a"], Share::ALL);
        share_out(&mut budget, &BTreeMap::from([("a", 1), ("b", 2)]));
        assert_eq!(budget.shares["b"], Share::NONE, "a has not let go");
        share_out(&mut budget, &BTreeMap::from([("a", 2), ("b", 2)]));
        assert_eq!((budget.shares["a"], budget.shares["b"]), (half, half));
        let written = budget.clone();
        share_out(&mut budget, &BTreeMap::from([("a", 3), ("b", 3)]));
        assert_eq!(budget, written);
        share_out(&mut budget, &BTreeMap::from([("b", 3)]));
        assert_eq!(budget.shares, BTreeMap::from([("b".to_owned(), Share::ALL)]));
    }
}
