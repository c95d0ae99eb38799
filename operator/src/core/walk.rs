//! Named situations in the small world, the operator killed at every decision, and seeded random walks (I1-I7).

use super::sim::{World, settings};
use super::*;

fn settled(durability: Durability) -> World {
    let mut world = World::new(1, settings(durability));
    world.until(100, "a quiet start", |world| {
        world.is_settled() && (world.store.sync.confirmed.is_some() || durability == Durability::Async)
    });
    world.run(5);
    world
}

fn master(world: &World) -> &str {
    world
        .store
        .master
        .as_ref()
        .map_or("", |master| master.name.as_str())
}

fn last_outcome(world: &World) -> Option<Outcome> {
    world.store.finished.first().map(|finished| finished.outcome)
}

#[test]
fn a_dead_master_is_replaced_and_comes_back_as_a_replica() {
    for durability in [Durability::Async, Durability::Preferred, Durability::Required] {
        let mut world = settled(durability);
        world.kill("a");
        world.until(100, "a new master", |world| master(world) != "a");
        world.until(200, "everybody follows", World::is_settled);
        world.run(3);
        assert!(world.servers["a"].recovery, "{durability:?}");
        assert!(world.store.rejoin.is_empty(), "{durability:?}");
    }
}

#[test]
fn the_newest_replica_is_elected_whatever_the_order() {
    let mut world = settled(Durability::Async);
    let log = world.servers["a"].log.clone();
    world.kill("a");
    for (name, len) in [("b", log.len() - 2), ("c", log.len())] {
        let server = world.servers.get_mut(name).unwrap();
        server.log = log[..len].to_vec();
    }
    world.until(100, "a new master", |world| master(world) != "a");
    assert_eq!(master(&world), "c");
}

#[test]
fn priority_decides_between_equals_and_zero_is_never_promoted() {
    let mut config = settings(Durability::Async);
    config.servers[1].priority = 0;
    config.servers[2].priority = 10;
    let mut world = World::new(1, config);
    world.until(50, "a quiet start", World::is_settled);
    world.kill("a");
    world.until(100, "a new master", |world| master(world) != "a");
    assert_eq!(master(&world), "c");
    world.settings.can_restart = false;
    world.kill("c");
    world.kill("a");
    world.run(100);
    assert_eq!(
        world.store.operation.as_ref().unwrap().blocked,
        Some(Blocked::NoCandidate)
    );
}

#[test]
fn a_restart_within_the_grace_is_no_failover() {
    let mut world = settled(Durability::Async);
    world.kill("a");
    world.run(2);
    world.supervise("a");
    world.run(50);
    assert_eq!((master(&world), world.store.epoch), ("a", 1));
}

#[test]
fn an_operator_that_alone_cannot_see_the_master_does_nothing() {
    let mut world = settled(Durability::Async);
    world.servers.get_mut("a").unwrap().hidden = true;
    world.run(300);
    assert_eq!((master(&world), world.store.epoch), ("a", 1));
}

#[test]
fn without_quorum_nobody_is_promoted_until_it_is_back() {
    let mut world = settled(Durability::Required);
    world.settings.can_restart = false;
    world.kill("b");
    world.kill("a");
    world.run(100);
    let op = world.store.operation.clone().unwrap();
    assert_eq!((op.step, op.blocked), (Step::Blocked, Some(Blocked::QuorumLost)));
    assert_eq!(world.store.mode, Mode::Fenced);
    world.supervise("b");
    world.until(100, "a new master", |world| master(world) != "a");
}

#[test]
fn a_blocked_failover_is_called_off_when_the_old_master_returns() {
    let mut world = settled(Durability::Required);
    world.settings.can_restart = false;
    world.kill("b");
    world.kill("a");
    world.run(100);
    world.supervise("a");
    world.until(100, "called off", |world| {
        last_outcome(world) == Some(Outcome::Aborted)
    });
    world.run(20);
    assert_eq!((master(&world), world.store.mode), ("a", Mode::Open));
    assert!(!world.servers["a"].read_only);
    assert_eq!(world.source("c").as_deref(), Some("a"));
}

#[test]
fn force_promotes_the_best_that_is_left() {
    let mut world = settled(Durability::Required);
    world.settings.can_restart = false;
    world.kill("b");
    world.kill("a");
    world.run(100);
    world.acked.clear(); // what may be lost is accepted
    world.settings.force = world.store.operation.as_ref().map(|op| op.id.clone());
    world.until(100, "a new master", |world| master(world) == "c");
}

#[test]
fn a_candidate_that_lags_too_much_is_not_promoted() {
    let mut world = settled(Durability::Async);
    world.settings.max_lag = 3;
    world.settings.can_restart = false;
    world.kill("b");
    world.servers.get_mut("c").unwrap().upstream = None;
    world.run(20);
    world.servers.get_mut("c").unwrap().upstream = None;
    let log = world.servers["a"].log.clone();
    world.servers.get_mut("c").unwrap().log = log[..log.len() - 10].to_vec();
    world.kill("a");
    world.run(100);
    assert_eq!(
        world.store.operation.as_ref().unwrap().blocked,
        Some(Blocked::LagLimit)
    );
}

#[test]
fn a_cut_off_proxy_delays_the_promotion_until_it_has_stopped() {
    let mut world = settled(Durability::Async);
    world.proxies[1].cut = Some(world.step);
    world.kill("a");
    let before = world.step;
    world.until(300, "a new master", |world| master(world) != "a");
    assert!(world.step - before >= 100, "{}", world.step - before);
}

#[test]
fn a_planned_switchover_moves_the_master_and_loses_nothing() {
    for durability in [Durability::Async, Durability::Required] {
        let mut world = settled(durability);
        world.settings.switchover = Some(SwitchoverRequest {
            to: "c".into(),
            id: "r1".into(),
            force: false,
        });
        world.until(200, "switched", |world| last_outcome(world).is_some());
        assert_eq!(
            (last_outcome(&world), master(&world)),
            (Some(Outcome::Completed), "c")
        );
        world.until(100, "everybody follows", World::is_settled);
        let held: Vec<u64> = world.servers["c"].log.iter().map(|record| record.1).collect();
        assert!(world.acked.iter().all(|id| held.contains(id)), "{durability:?}");
        let epoch = world.store.epoch;
        world.run(50);
        assert_eq!(world.store.epoch, epoch, "a request is served once");
    }
}

#[test]
fn what_a_switchover_can_do_before_the_pause_is_done_before_it() {
    let mut world = settled(Durability::Required);
    world.settings.switchover = Some(SwitchoverRequest {
        to: "c".into(),
        id: "r1".into(),
        force: false,
    });
    world.until(200, "paused", |world| world.store.mode == Mode::Paused);
    let a = &world.servers["a"];
    assert_eq!(a.upstream.as_deref(), Some("c"), "{:?}", world.trace);
    assert!(
        !a.signal,
        "if it died now, it would have to come back as what it is"
    );
    world.until(200, "switched", |world| last_outcome(world).is_some());
    assert_eq!(last_outcome(&world), Some(Outcome::Completed));
}

#[test]
fn a_switchover_that_cannot_work_is_refused_once() {
    let mut world = settled(Durability::Async);
    world.run(40);
    world.kill("c");
    world.run(2);
    world.settings.switchover = Some(SwitchoverRequest {
        to: "c".into(),
        id: "r1".into(),
        force: false,
    });
    world.run(60);
    assert_eq!(last_outcome(&world), Some(Outcome::Refused));
    assert_eq!((world.store.finished.len(), world.store.epoch), (1, 1));
}

#[test]
fn a_switchover_that_does_not_drain_is_aborted() {
    let mut world = settled(Durability::Required);
    world.run(40);
    // Commits hang: nobody confirms, so the statements in flight never end.
    world.settings.switchover = Some(SwitchoverRequest {
        to: "c".into(),
        id: "r1".into(),
        force: false,
    });
    world.until(50, "holding", |world| world.store.mode == Mode::Holding);
    world.servers.get_mut("a").unwrap().sync_names = "ANY 3 (\"b\",\"c\")".into();
    let proxy = world.proxies.len();
    for at in 0..proxy {
        world.proxies[at].open.push(("a".into(), 0, u64::MAX));
    }
    world.until(200, "aborted", |world| last_outcome(world).is_some());
    assert_eq!(
        (last_outcome(&world), master(&world)),
        (Some(Outcome::Aborted), "a")
    );
}

#[test]
fn a_target_that_dies_after_the_old_master_stopped_gives_it_back() {
    let mut world = settled(Durability::Async);
    world.settings.switchover = Some(SwitchoverRequest {
        to: "c".into(),
        id: "r1".into(),
        force: false,
    });
    world.until(200, "stopping", |world| {
        world
            .store
            .operation
            .as_ref()
            .is_some_and(|op| op.step == Step::StoppingMaster)
    });
    world.until(50, "stopped", |world| {
        !world.servers["a"].up || world.servers["a"].recovery
    });
    world.kill("c");
    world.kill("b");
    world.until(200, "over", |world| last_outcome(world).is_some());
    assert_eq!(
        (last_outcome(&world), master(&world)),
        (Some(Outcome::Aborted), "a")
    );
    let held: Vec<u64> = world.servers["a"].log.iter().map(|record| record.1).collect();
    assert!(world.acked.iter().all(|id| held.contains(id)));
}

#[test]
fn a_zombie_is_fenced_and_rewound() {
    let mut world = settled(Durability::Async);
    world.settings.can_restart = false;
    world.kill("a");
    world.until(100, "a new master", |world| {
        master(world) != "a" && world.store.operation.is_none()
    });
    let log = &mut world.servers.get_mut("a").unwrap().log;
    log.push((1, u64::MAX)); // a write by somebody who bypasses the proxies
    world.supervise("a");
    world.run(2);
    assert!(world.servers["a"].read_only || world.servers["a"].recovery);
    world.until(200, "rewound", World::is_settled);
    assert!(!world.servers["a"].log.contains(&(1, u64::MAX)));
}

#[test]
fn without_a_way_to_rewind_a_person_is_asked() {
    let mut world = settled(Durability::Async);
    world.settings.can_rewind = false;
    world.settings.can_restart = false;
    world.kill("a");
    world.until(100, "a new master", |world| {
        master(world) != "a" && world.store.operation.is_none()
    });
    world.supervise("a");
    world.run(50);
    assert!(world.store.rejoin["a"].given_up);
    assert!(world.servers["a"].read_only);
    assert!(world.trace.iter().any(|line| line.contains("RejoinRequired")));
}

#[test]
fn under_manual_an_old_master_is_fenced_and_left_to_a_person() {
    let mut config = settings(Durability::Async);
    config.rejoin = RejoinPolicy::Manual;
    let mut world = World::new(1, config);
    world.until(50, "a quiet start", World::is_settled);
    world.kill("a");
    world.until(100, "a new master", |world| {
        master(world) != "a" && world.store.operation.is_none()
    });
    world.run(50);
    assert!(!world.servers["a"].up && world.store.rejoin["a"].given_up);
    world.supervise("a");
    world.run(20);
    assert!(world.servers["a"].read_only && !world.servers["a"].recovery);
}

#[test]
fn somebody_elses_promotion_is_followed() {
    for ha in [true, false] {
        let mut config = settings(Durability::Async);
        config.ha = ha;
        let mut world = World::new(1, config);
        world.until(50, "a quiet start", |world| world.store.master.is_some());
        world.run(5);
        world.kill("a");
        let server = world.servers.get_mut("b").unwrap();
        (server.recovery, server.timeline) = (false, 2);
        server.log.push((2, 0));
        world.until(50, "adopted", |world| master(world) == "b");
        assert_eq!(last_outcome(&world), Some(Outcome::Adopted), "ha {ha}");
    }
}

#[test]
fn without_ha_nothing_is_ever_done_to_a_server() {
    let mut config = settings(Durability::Required);
    config.ha = false;
    let mut world = World::new(1, config);
    world.run(20);
    world.kill("a");
    world.run(100);
    world.supervise("a");
    world.run(50);
    assert_eq!((master(&world), world.store.epoch), ("a", 1));
    assert!(
        !world.trace.iter().any(|line| line.contains('{')),
        "{:?}",
        world.trace
    );
}

#[test]
fn two_masters_at_the_start_are_a_persons_business() {
    let mut world = World::new(1, settings(Durability::Async));
    world.servers.get_mut("b").unwrap().recovery = false;
    world.run(50);
    assert_eq!((world.store.master.clone(), world.store.epoch), (None, 0));
}

/// Kills the operator before and after each of its decisions in turn; each time the end must be the same.
fn killed_everywhere(name: &str, prepare: impl Fn(&mut World)) {
    for durability in [Durability::Async, Durability::Required] {
        let mut calm = settled(durability);
        let first = calm.decisions;
        prepare(&mut calm);
        calm.until(400, name, |world| {
            last_outcome(world).is_some() && world.is_settled()
        });
        let last = calm.decisions;
        assert!(last - first > 10, "{name} took only {} decisions", last - first);
        for die_at in first + 1..=last {
            let mut world = settled(durability);
            world.die_at = Some(die_at);
            prepare(&mut world);
            world.until(800, name, |world| {
                last_outcome(world).is_some() && world.is_settled()
            });
            assert_eq!(world.store.finished.len(), 1, "killed at {die_at}");
            assert_eq!(last_outcome(&world), last_outcome(&calm), "killed at {die_at}");
            for (id, promoted) in &world.promoted {
                assert_eq!(
                    promoted.len(),
                    1,
                    "killed at {die_at}: {id} promoted {promoted:?}"
                );
            }
        }
    }
}

#[test]
fn an_operator_killed_anywhere_in_a_failover_is_continued() {
    killed_everywhere("failover", |world| world.kill("a"));
}

#[test]
fn an_operator_killed_anywhere_in_a_switchover_is_continued() {
    killed_everywhere("switchover", |world| {
        world.settings.switchover = Some(SwitchoverRequest {
            to: "b".into(),
            id: "r".into(),
            force: false,
        });
    });
}

fn walk(seed: u64) {
    let durability = [Durability::Async, Durability::Preferred, Durability::Required][(seed % 3) as usize];
    let mut config = settings(durability);
    config.can_rewind = !seed.is_multiple_of(5);
    let mut world = World::new(seed, config);
    world.until(100, "a quiet start", World::is_settled);
    let names = ["a", "b", "c"];
    for _ in 0..400 {
        let name = names[world.dice.roll(3) as usize];
        match world.dice.roll(60) {
            0 | 1 => world.kill(name),
            2..=5 => world.supervise(name),
            6 => world.servers.get_mut(name).unwrap().hidden = true,
            7..=9 => world.servers.get_mut(name).unwrap().hidden = false,
            10..=12 => world.restart_operator(),
            13 => {
                let at = world.dice.roll(2) as usize;
                world.proxies[at].cut = world.proxies[at].cut.or(Some(world.step));
            }
            14..=16 => {
                let at = world.dice.roll(2) as usize;
                world.proxies[at].cut = None;
            }
            17 => {
                let id = format!("r{}", world.step);
                let force = world.dice.one_in(3);
                world.settings.switchover = Some(SwitchoverRequest {
                    to: name.into(),
                    id,
                    force,
                });
            }
            18 => world.settings.can_restart = !world.settings.can_restart,
            19 => {
                let die_at = world.decisions + 1 + world.dice.roll(6);
                world.die_at = Some(die_at);
            }
            _ => {}
        }
        world.tick();
    }
    // The faults end: everything must come to rest.
    world.settings.can_restart = true;
    world.settings.can_rewind = true;
    world.die_at = None;
    for name in names {
        world.servers.get_mut(name).unwrap().hidden = false;
        if !world.servers[name].up {
            world.supervise(name);
        }
    }
    for proxy in &mut world.proxies {
        proxy.cut = None;
    }
    world.until(900, "rest after the faults", World::is_settled);
}

#[test]
fn random_walks_keep_the_invariants() {
    let seeds = match std::env::var("WALK_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => {
            let count = std::env::var("WALKS")
                .ok()
                .and_then(|walks| walks.parse().ok())
                .unwrap_or(300);
            (1..=count).collect::<Vec<u64>>()
        }
    };
    for seed in seeds {
        if let Err(why) = std::panic::catch_unwind(|| walk(seed)) {
            eprintln!("WALK_SEED={seed}");
            std::panic::resume_unwind(why);
        }
    }
}
