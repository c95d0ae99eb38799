//! Is the master dead? Consecutive failures, and nobody else who still sees it (OPERATOR A5).

use super::types::{Durability, Sample, Settings};
use super::view::{Class, Seen, View};
use super::{Durable, Master};
use std::time::{Duration, Instant};

/// A sender that was heard less than this ago counts as living.
const STREAM_HEARD: Duration = Duration::from_secs(3);
/// Failures that suffice when every witness finds the port closed.
const REFUSED_BY_ALL: u32 = 3;

/// What is known about the recorded master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It serves, or at least lives.
    Alive,
    /// Not yet probed, or it is starting up within its grace.
    Waiting(String),
    /// Probes fail, but not for long enough or not for everybody.
    Suspect(String),
    /// Dead for everybody who can tell.
    Dead(String),
    /// It is a standby now: somebody has demoted it.
    Demoted,
}

/// The verdict on the recorded master.
pub(super) fn judge(settings: &Settings, master: &Master, view: &View, now: Instant) -> Verdict {
    let seen = view.server(&master.name);
    let Some(class) = seen.class else {
        return Verdict::Waiting("not probed yet".into());
    };
    match class {
        Class::Up => match &seen.sample {
            Some(sample) if sample.recovery => Verdict::Demoted,
            _ => Verdict::Alive,
        },
        Class::Odd => Verdict::Alive,
        Class::Starting => {
            let since = seen
                .starting
                .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
            if since < settings.crash_grace {
                return Verdict::Waiting("starting up".into());
            }
            witnessed(
                settings,
                master,
                view,
                now,
                format!("starting up for {} s", since.as_secs()),
            )
        }
        Class::Refused | Class::Silent | Class::WriteHung => {
            let by_all = seen.refusals >= REFUSED_BY_ALL && refused_by_all(settings, view, now);
            if !has_failed_enough(settings, seen, now) && !by_all {
                return Verdict::Suspect(format!(
                    "{} of {} probes failed",
                    seen.failures, settings.threshold
                ));
            }
            let what = match class {
                Class::Refused => "its port is closed",
                Class::WriteHung => "its writes hang",
                _ => "it does not answer",
            };
            witnessed(
                settings,
                master,
                view,
                now,
                format!("{} probes failed, {what}", seen.failures),
            )
        }
    }
}

/// Whether as many probes failed as there have to be. One that waits for an answer in vain takes longer than the time between two:
/// then the time they cover together counts, so that a silent machine is found as soon as a closed port.
fn has_failed_enough(settings: &Settings, seen: &Seen, now: Instant) -> bool {
    let covered = seen.silent_since.is_some_and(|since| {
        now.saturating_duration_since(since) >= settings.probe_period * settings.threshold
    });
    seen.failures >= settings.threshold || (covered && seen.failures >= settings.threshold.div_ceil(2).max(2))
}

/// Whether there is a live proxy, and all of them find the port closed as we do.
fn refused_by_all(settings: &Settings, view: &View, now: Instant) -> bool {
    let mut live = view.live_proxies(settings.lease, now).peekable();
    live.peek().is_some()
        && live.all(|proxy| proxy.facts.master_refused && proxy.facts.master_fails >= REFUSED_BY_ALL)
}

/// We cannot reach it: can anybody else?
fn witnessed(settings: &Settings, master: &Master, view: &View, now: Instant, why: String) -> Verdict {
    let (mut live, mut failing) = (0usize, 0usize);
    // They speak up every three seconds. One whose word is overdue may share the master's fate, and says nothing about it.
    for proxy in view.live_proxies(settings.lease / 2, now) {
        live += 1;
        failing += usize::from(proxy.facts.master_fails >= 2);
    }
    if live > 0 && failing * 2 <= live {
        return Verdict::Suspect(format!("{why}, but {} of {live} proxies see it", live - failing));
    }
    for server in settings.others(&master.name) {
        let streaming = view
            .server(&server.name)
            .current()
            .filter(|sample| sample.timeline == master.timeline)
            .and_then(|sample| sample.receiver.as_ref())
            .is_some_and(|receiver| receiver.streaming && receiver.message_age < STREAM_HEARD);
        if streaming && !is_hung(view, master) {
            return Verdict::Suspect(format!("{why}, but {} still streams from it", server.name));
        }
    }
    Verdict::Dead(why)
}

/// A master whose storage hangs goes on sending what it has: its stream proves nothing.
fn is_hung(view: &View, master: &Master) -> bool {
    view.server(&master.name).class == Some(Class::WriteHung)
}

/// What the routing may rely on before anything is promoted (I2).
pub(super) fn proxies_fenced(
    settings: &Settings,
    durable: &Durable,
    view: &View,
    since_detached: Duration,
    quorum_detached: bool,
    now: Instant,
) -> bool {
    let Some(operation) = &durable.operation else {
        return false;
    };
    if !view.heard {
        return false;
    }
    if settings.durability == Durability::Required && quorum_detached {
        return true;
    }
    // The failsafe rule of a proxy without its store ends within a second, plus one for the way.
    let bound = settings.lease + Duration::from_secs(2);
    let silent = view
        .proxies
        .values()
        .filter(|proxy| proxy.facts.acked < operation.epoch);
    silent.fold(true, |fenced, proxy| {
        fenced
            && now.saturating_duration_since(proxy.changed) >= bound
            && since_detached >= Duration::from_secs(2)
    })
}

/// Whether a sample belongs to the recorded master in the state it was recorded in.
pub(super) fn is_intact(master: &Master, sample: &Sample) -> bool {
    !sample.recovery && sample.system == master.system && sample.timeline == master.timeline
}

#[cfg(test)]
mod tests {
    use super::super::sim::settings;
    use super::super::types::{Probe, ProxyFacts};
    use super::*;

    /// The verdict when probes came to this, each so many milliseconds after the last good one.
    fn after(probes: &[(u64, Probe)]) -> Verdict {
        with_proxies(probes, &[])
    }

    /// The same with proxies that said at that time how many of their probes have failed.
    fn with_proxies(probes: &[(u64, Probe)], said: &[(u64, Vec<u32>)]) -> Verdict {
        let settings = Settings {
            threshold: 6,
            probe_period: Duration::from_millis(500),
            ..settings(Durability::Async)
        };
        let begun = Instant::now();
        let mut view = View::new(begun);
        let master = Master {
            name: "a".into(),
            ..Master::default()
        };
        view.probed("a", Probe::Odd("it answers".into()), begun);
        let mut now = begun;
        for (at, probe) in probes {
            now = begun + Duration::from_millis(*at);
            view.probed("a", probe.clone(), now);
        }
        for (at, fails) in said {
            let facts = fails.iter().enumerate().map(|(n, fails)| ProxyFacts {
                id: n.to_string(),
                master_fails: *fails,
                ..ProxyFacts::default()
            });
            view.heard(facts.collect(), begun + Duration::from_millis(*at));
        }
        judge(&settings, &master, &view, now)
    }

    #[test]
    fn a_proxy_that_sees_the_master_keeps_it_until_its_word_is_overdue() {
        let silent =
            |until: u64| -> Vec<_> { (1..=until).map(|n| (500 + n * 1000, Probe::Silent)).collect() };
        // Both speak at first; then one is silent as the master is, and the other says that its probes fail.
        let said = [(100, vec![0, 0]), (3000, vec![2, 0])];
        assert!(matches!(with_proxies(&silent(3), &said), Verdict::Suspect(_)));
        assert!(matches!(with_proxies(&silent(5), &said), Verdict::Dead(_)));
        let sees = [(100, vec![0, 0]), (3000, vec![2, 0]), (4000, vec![2, 1])];
        assert!(matches!(with_proxies(&silent(5), &sees), Verdict::Suspect(_)));
    }

    #[test]
    fn a_machine_that_says_nothing_is_found_as_soon_as_a_closed_port() {
        let refused: Vec<_> = (1..=6).map(|n| (n * 500, Probe::Refused)).collect();
        assert!(matches!(after(&refused), Verdict::Dead(_)));
        assert!(matches!(after(&refused[..5]), Verdict::Suspect(_)));
        let silent: Vec<_> = [1500, 2500, 3500].map(|at| (at, Probe::Silent)).into();
        assert!(matches!(after(&silent), Verdict::Dead(_)));
        assert!(matches!(after(&silent[..2]), Verdict::Suspect(_)));
    }

    #[test]
    fn an_operator_that_stood_still_itself_does_not_take_that_for_the_masters_silence() {
        let late = [(60_000, Probe::Silent), (60_500, Probe::Silent)];
        assert!(matches!(after(&late), Verdict::Suspect(_)));
    }

    #[test]
    fn time_in_which_a_server_said_that_it_starts_does_not_count() {
        let probes = [
            (500, Probe::Silent),
            (4000, Probe::Starting),
            (4500, Probe::Refused),
            (5000, Probe::Refused),
            (5500, Probe::Refused),
        ];
        assert!(matches!(after(&probes), Verdict::Suspect(_)));
    }
}
