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

/// The same, and the standbys use slots of ours.
fn settled_with_slots(durability: Durability) -> World {
    let mut world = settled(durability);
    for name in ["b", "c"] {
        world.servers.get_mut(name).unwrap().slot = slot_name(name);
    }
    world.until(20, "slots", |world| world.servers["a"].slots.len() == 2);
    world
}

fn request(to: &str) -> SwitchoverRequest {
    SwitchoverRequest {
        to: to.into(),
        id: "r1".into(),
        force: false,
    }
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
fn who_becomes_master_again_is_marked_and_writes_a_checkpoint_again() {
    let mut world = settled(Durability::Required);
    for round in 0..6 {
        let old = master(&world).to_owned();
        let before = world.trace.len();
        world.kill(&old);
        world.until(100, "a new master", |world| {
            master(world) != old && world.store.operation.is_none()
        });
        for act in ["Mark", "Checkpoint"] {
            let act = format!("{act} {{ server: {:?}", master(&world));
            let done = world.trace[before..].iter().any(|line| line.contains(&act));
            assert!(done, "round {round}: {act}");
        }
        world.until(200, "everybody follows", World::is_settled);
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
fn the_old_master_that_returns_as_a_standby_holds_every_commit_and_is_promoted() {
    let mut world = settled_with_slots(Durability::Required);
    world.settings.can_restart = false;
    world.kill("b");
    world.kill("a");
    world.run(100);
    assert_eq!(
        world.store.operation.as_ref().unwrap().blocked,
        Some(Blocked::QuorumLost)
    );
    world.servers.get_mut("a").unwrap().signal = true;
    world.supervise("a");
    world.until(100, "a new line", |world| world.store.mode == Mode::Open);
    let master = world.store.master.clone().unwrap();
    assert_eq!((master.name.as_str(), master.timeline), ("a", 2));
    world.until(100, "everybody who is there follows", |world| {
        world.source("c").as_deref() == Some("a")
    });
}

#[test]
fn a_copy_of_a_server_that_lags_is_not_taken_for_the_old_master() {
    // What the copy has of what tells the old master from it: behind where it was last seen, behind another, without slots.
    for (records_less, slots) in [(3, true), (0, false)] {
        let mut world = settled_with_slots(Durability::Required);
        world.settings.can_restart = false;
        world.kill("b");
        world.kill("a");
        world.run(100);
        let copy = world.servers["c"].log.clone();
        let a = world.servers.get_mut("a").unwrap();
        let whole = a.log.len();
        a.log = copy[..copy.len().min(whole) - records_less].to_vec();
        a.signal = true;
        if !slots {
            a.slots.clear();
        }
        world.supervise("a");
        world.run(100);
        let op = world.store.operation.as_ref().unwrap();
        assert_eq!(op.blocked, Some(Blocked::QuorumLost), "{records_less} {slots}");
    }
}

#[test]
fn a_standby_that_still_applies_its_own_log_is_waited_for_and_not_measured() {
    let mut world = settled(Durability::Required);
    world.settings.can_restart = false;
    // b alone has the last records, and was restarted: what it has applied is less than c has.
    world.servers.get_mut("c").unwrap().upstream = Some("nobody".into());
    world.run(3);
    for name in ["a", "b"] {
        world.kill(name);
    }
    world.supervise("b");
    world.servers.get_mut("b").unwrap().behind = 20;
    world.until(200, "a new master", |world| master(world) != "a");
    assert_eq!(master(&world), "b");
}

#[test]
fn a_replica_that_stayed_on_the_timeline_before_has_confirmed_nothing_since_and_counts() {
    let mut config = settings(Durability::Required);
    let like = config.servers[0].clone();
    config.servers.push(Server {
        name: "d".into(),
        port: 4,
        ..like
    });
    config.can_restart = false;
    let mut world = World::new(1, config);
    world.until(100, "a quiet start", |world| world.store.sync.confirmed.is_some());
    world.run(5);
    world.kill("a");
    world.until(100, "b is promoted", |world| {
        let op = world.store.operation.as_ref();
        op.is_some_and(|op| op.step == Step::Promoting && op.target.as_deref() == Some("b"))
    });
    // c never hears of it, and b dies when commits may have waited for either c or d.
    world.servers.get_mut("c").unwrap().hidden = true;
    world.until(50, "b is master", |world| {
        world.store.operation.is_none() && master(world) == "b"
    });
    let either = |set: &SyncSet| set.names == ["c", "d"] && set.k == 1;
    assert!(world.store.sync.sets().any(either), "{:?}", world.store.sync);
    world.kill("b");
    world.servers.get_mut("c").unwrap().hidden = false;
    world.until(100, "a new master", |world| master(world) == "d");
    assert_eq!(world.servers["c"].timeline, 1, "or it would prove nothing");
}

#[test]
fn a_new_master_that_dies_at_once_is_replaced_by_who_followed_it() {
    let mut world = settled(Durability::Required);
    world.settings.can_restart = false;
    world.kill("a");
    world.until(100, "b is master", |world| {
        master(world) == "b" && world.store.mode == Mode::Open
    });
    world.until(20, "c follows", |world| world.source("c").as_deref() == Some("b"));
    world.run(1);
    // Commits wait for c alone, whatever they waited for when a was master.
    assert!(world.store.sync.confirmed.is_none(), "{:?}", world.store.sync);
    world.kill("b");
    world.until(100, "c is master", |world| master(world) == "c");
}

#[test]
fn who_was_to_be_promoted_and_returns_as_a_standby_is_promoted() {
    let mut world = settled(Durability::Required);
    world.settings.can_restart = false;
    world.kill("a");
    world.until(100, "b is promoted", |world| {
        world.store.operation.as_ref().is_some_and(|op| op.promote_issued)
    });
    world.kill("b");
    world.kill("c");
    world.run(100);
    let blocked = |world: &World| world.store.operation.as_ref().and_then(|op| op.blocked);
    assert!(blocked(&world).is_some());
    world.servers.get_mut("b").unwrap().signal = true;
    world.supervise("b");
    world.until(100, "b is master", |world| master(world) == "b");
}

#[test]
fn an_old_master_that_is_promoted_again_is_not_started_as_a_standby() {
    let mut world = settled(Durability::Required);
    world.settings.switchover = Some(request("c"));
    let at = |world: &World, step| world.store.operation.as_ref().is_some_and(|op| op.step == step);
    world.until(200, "stopping", |world| at(world, Step::StoppingMaster));
    world.kill("c");
    world.until(200, "a is master again", |world| {
        at(world, Step::Repointing) && master(world) == "a"
    });
    world.kill("a");
    world.run(20);
    let trace = world.trace.join("\n");
    assert!(
        !trace.contains("Start { server: \"a\", master: \"a\" }"),
        "{trace}"
    );
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
        world.settings.switchover = Some(request("c"));
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
    world.settings.switchover = Some(request("c"));
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
    world.settings.switchover = Some(request("c"));
    world.run(60);
    assert_eq!(last_outcome(&world), Some(Outcome::Refused));
    assert_eq!((world.store.finished.len(), world.store.epoch), (1, 1));
}

#[test]
fn a_switchover_that_does_not_drain_is_aborted() {
    let mut world = settled(Durability::Required);
    world.run(40);
    // Commits hang: nobody confirms, so the statements in flight never end.
    world.settings.switchover = Some(request("c"));
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
    world.settings.switchover = Some(request("c"));
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
        world.settings.switchover = Some(request("b"));
    });
}

fn walk(seed: u64) {
    let durability = [Durability::Async, Durability::Preferred, Durability::Required][(seed % 3) as usize];
    let mut config = settings(durability);
    config.can_rewind = !seed.is_multiple_of(5);
    if seed.is_multiple_of(4) {
        for (name, port) in [("d", 4), ("e", 5)] {
            let like = config.servers[0].clone();
            let name = name.to_owned();
            config.servers.push(Server { name, port, ..like });
        }
        config.sync_replicas = 2;
    }
    let names: Vec<Name> = config.servers.iter().map(|server| server.name.clone()).collect();
    let mut world = World::new(seed, config);
    world.until(100, "a quiet start", World::is_settled);
    for _ in 0..400 {
        let name = names[world.dice.roll(names.len() as u64) as usize].as_str();
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
            20 | 21 => {
                // A person, or what starts its pod, makes a standby of what was stopped.
                let server = world.servers.get_mut(name).unwrap();
                server.signal |= !server.up;
            }
            _ => {}
        }
        world.tick();
    }
    // The faults end: everything must come to rest.
    world.settings.can_restart = true;
    world.settings.can_rewind = true;
    world.die_at = None;
    for name in &names {
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
