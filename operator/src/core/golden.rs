//! The whole table of step × situation, as text: a change of any decision shows as a change of `golden.txt`.
//!
//! `UPDATE_GOLDEN=1 cargo test -p pgstmtpool-operator golden` writes it anew.

use super::sim::{World, settings};
use super::*;
use std::fmt::Write;

const STEPS: [Step; 18] = [
    Step::Declared,
    Step::Warming,
    Step::HoldingLeases,
    Step::Pausing,
    Step::CatchingUp,
    Step::StoppingMaster,
    Step::FencingProxies,
    Step::FencingMaster,
    Step::Detaching,
    Step::Measuring,
    Step::Elected,
    Step::Promoting,
    Step::Preparing,
    Step::Opening,
    Step::Repointing,
    Step::Labelling,
    Step::Blocked,
    Step::Aborting,
];

/// Makes something the case.
type Change = fn(&mut World);

/// What may be the case while an operation is at a step. The master was `a`, the target is `b`, the third is `c`.
const SITUATIONS: [(&str, Change); 13] = [
    ("all well", |_| {}),
    ("a down", |world| world.kill("a")),
    ("a silent", |world| {
        world.servers.get_mut("a").unwrap().hidden = true
    }),
    ("a fenced", |world| {
        world.servers.get_mut("a").unwrap().read_only = true
    }),
    ("a stopped, is standby", |world| {
        world.kill("a");
        world.servers.get_mut("a").unwrap().signal = true;
        world.servers.get_mut("a").unwrap().upstream = Some("b".into());
        world.supervise("a");
    }),
    ("a down, b and c detached", |world| {
        world.kill("a");
        for name in ["b", "c"] {
            world.servers.get_mut(name).unwrap().upstream = Some("nobody".into());
        }
    }),
    ("a and b down", |world| {
        world.kill("a");
        world.kill("b");
    }),
    ("a and c down", |world| {
        world.kill("a");
        world.kill("c");
    }),
    ("b down", |world| world.kill("b")),
    ("b promoted", |world| {
        world.kill("a");
        promote(world, "b");
    }),
    ("b promoted, a writes", |world| promote(world, "b")),
    ("c promoted, a down", |world| {
        world.kill("a");
        promote(world, "c");
    }),
    ("a proxy lags", |world| {
        world.kill("a");
        world.proxies[1].acked = 0;
        world.proxies[1].cut = Some(world.step);
    }),
];

fn promote(world: &mut World, name: &str) {
    let server = world.servers.get_mut(name).unwrap();
    (server.recovery, server.signal, server.timeline) = (false, false, server.timeline + 1);
    server.log.push((server.timeline, 0));
}

fn operation(kind: Kind, step: Step, epoch: u64) -> Operation {
    let candidate = |name: &str| Candidate {
        name: name.into(),
        timeline: 1,
        lsn: Lsn(5),
        replay: Lsn(5),
        priority: 50,
        delayed: false,
    };
    let elected = step >= Step::Elected || kind == Kind::Switchover;
    let open = matches!(step, Step::Opening | Step::Repointing | Step::Labelling);
    Operation {
        id: format!("op-{epoch}"),
        kind,
        from: "a".into(),
        from_timeline: 1,
        system: "s".into(),
        target: (elected && step != Step::Measuring && step != Step::Blocked).then(|| "b".into()),
        step,
        attempt: 1,
        epoch,
        promote_issued: open || matches!(step, Step::Promoting | Step::Preparing),
        fencing: None,
        candidates: vec![candidate("b"), candidate("c")],
        detached: vec!["b".into(), "c".into()],
        suspects: Vec::new(),
        stopped_at: (kind == Kind::Switchover && step >= Step::StoppingMaster && step < Step::Blocked)
            .then_some(Lsn(1)),
        last_lsn: None,
        force: false,
        request: None,
        blocked: (step == Step::Blocked).then_some(Blocked::NoCandidate),
        message: String::new(),
    }
}

fn belongs(kind: Kind, step: Step) -> bool {
    let switchover_only = (Step::Warming..=Step::StoppingMaster).contains(&step);
    let failover_only = (Step::FencingProxies..=Step::Detaching).contains(&step);
    match kind {
        Kind::Failover => !switchover_only,
        Kind::Switchover => !failover_only,
    }
}

fn describe(before: &Durable, decision: &Decision) -> String {
    let mut text = String::new();
    if let Some(durable) = &decision.write {
        let old = before.operation.as_ref();
        match &durable.operation {
            Some(op) => {
                let _ = write!(text, "write {:?}", op.step);
                if old.is_some_and(|old| old.attempt != op.attempt) {
                    let _ = write!(text, ", attempt {}", op.attempt);
                }
                if let (Some(target), true) = (&op.target, old.is_some_and(|old| old.target != op.target)) {
                    let _ = write!(text, ", target {target}");
                }
                if old.is_some_and(|old| !old.promote_issued) && op.promote_issued {
                    text.push_str(", promotion ordered");
                }
                if !op.suspects.is_empty() {
                    let _ = write!(text, ", suspects {:?}", op.suspects);
                }
            }
            None => {
                let outcome = durable.finished.first().map(|finished| finished.outcome);
                let _ = write!(text, "end {outcome:?}");
            }
        }
        if durable.epoch != before.epoch {
            let master = durable.master.as_ref().map_or("", |master| master.name.as_str());
            let _ = write!(
                text,
                "; epoch +{} {:?} {master}",
                durable.epoch - before.epoch,
                durable.mode
            );
        }
    } else if decision.acts.is_empty() {
        text.push_str("wait");
    } else {
        let acts: Vec<String> = decision
            .acts
            .iter()
            .map(|act| format!("{:?} {}", act.kind(), act.server()))
            .collect();
        text.push_str(&acts.join(", "));
    }
    text
}

/// The decision for one cell: soon after the step began, and long after.
fn cell(kind: Kind, step: Step, situation: fn(&mut World)) -> (String, String) {
    let mut world = World::new(3, settings(Durability::Async));
    world.until(50, "a quiet start", World::is_settled);
    world.run(5);
    let mut durable = world.store.clone();
    durable.epoch += 1;
    durable.operation = Some(operation(kind, step, durable.epoch));
    durable.mode = match step {
        Step::HoldingLeases => Mode::Holding,
        Step::Pausing | Step::CatchingUp | Step::StoppingMaster => Mode::Paused,
        Step::Declared | Step::Warming if kind == Kind::Switchover => Mode::Open,
        Step::Opening | Step::Repointing | Step::Labelling => Mode::Open,
        _ => Mode::Fenced,
    };
    world.store = durable.clone();
    for proxy in &mut world.proxies {
        (proxy.epoch, proxy.acked, proxy.mode) = (durable.epoch, durable.epoch, durable.mode);
        proxy.open.clear();
    }
    situation(&mut world);
    if matches!(step, Step::Opening | Step::Repointing | Step::Labelling) {
        durable.master = Some(Master {
            name: "b".into(),
            timeline: 2,
            system: "s".into(),
        });
        world.store = durable.clone();
    }
    world.restart_operator();
    let text = |world: &mut World, steps: u64| {
        for _ in 0..steps {
            world.look();
        }
        let decision = world.core.decide(world.now());
        describe(&world.store, &decision)
    };
    (text(&mut world, 1), text(&mut world, 60))
}

#[test]
fn the_table_of_steps_and_situations_is_the_golden_one() {
    let mut table = String::new();
    for kind in [Kind::Failover, Kind::Switchover] {
        for step in STEPS.into_iter().filter(|step| belongs(kind, *step)) {
            let _ = writeln!(table, "{kind:?} {step:?}");
            for (name, situation) in SITUATIONS {
                let (soon, late) = cell(kind, step, situation);
                let late = if late == soon {
                    String::new()
                } else {
                    format!("  || later: {late}")
                };
                let _ = writeln!(table, "  {name:<25} {soon}{late}");
            }
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/core/golden.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    for (mine, theirs) in table.lines().zip(golden.lines()) {
        assert_eq!(mine, theirs, "UPDATE_GOLDEN=1 writes it anew");
    }
    assert_eq!(table.lines().count(), golden.lines().count());
}
