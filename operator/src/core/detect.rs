//! Is the master dead? Consecutive failures, and nobody else who still sees it (OPERATOR A5).

use super::types::{Durability, Sample, Settings};
use super::view::{Class, View};
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
            if seen.failures < settings.threshold && !by_all {
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

/// Whether there is a live proxy, and all of them find the port closed as we do.
fn refused_by_all(settings: &Settings, view: &View, now: Instant) -> bool {
    let mut live = view.live_proxies(settings.lease, now).peekable();
    live.peek().is_some()
        && live.all(|proxy| proxy.facts.master_refused && proxy.facts.master_fails >= REFUSED_BY_ALL)
}

/// We cannot reach it: can anybody else?
fn witnessed(settings: &Settings, master: &Master, view: &View, now: Instant, why: String) -> Verdict {
    let (mut live, mut failing) = (0usize, 0usize);
    for proxy in view.live_proxies(settings.lease, now) {
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
