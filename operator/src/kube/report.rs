//! Health and metrics of an operator with many pools.

use crate::health::Health;
use crate::http::Report;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Without an answer of the API for so long it is not ready.
const CONTACT_MAX: Duration = Duration::from_secs(30);

/// All pools of this operator.
#[derive(Debug, Default)]
pub struct Reports {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pools: BTreeMap<String, Arc<Health>>,
    /// The last answer of the API.
    contact: Option<Instant>,
    /// Why there was none since.
    error: Option<String>,
}

impl Reports {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The API answered, or not.
    pub(super) fn contact(&self, contact: Result<(), String>) {
        let mut state = self.state();
        match contact {
            Ok(()) => (state.contact, state.error) = (Some(Instant::now()), None),
            Err(error) => state.error = Some(error),
        }
    }

    pub(super) fn insert(&self, key: &str, health: Arc<Health>) {
        self.state().pools.insert(key.to_owned(), health);
    }

    pub(super) fn remove(&self, key: &str) {
        self.state().pools.remove(key);
    }
}

impl Report for Reports {
    fn live(&self) -> Result<(), String> {
        let state = self.state();
        state
            .pools
            .iter()
            .try_for_each(|(key, health)| health.live().map_err(|why| format!("{key}: {why}")))
    }

    fn ready(&self) -> Result<(), String> {
        let state = self.state();
        match (state.contact, &state.error) {
            (Some(contact), _) if contact.elapsed() < CONTACT_MAX => Ok(()),
            (_, Some(error)) => Err(error.clone()),
            (Some(contact), None) => Err(format!(
                "the API did not answer for {} s",
                contact.elapsed().as_secs()
            )),
            (None, None) => Err("the API has not answered yet".to_owned()),
        }
    }

    fn metrics(&self) -> Result<String, std::fmt::Error> {
        let state = self.state();
        let texts = state.pools.values().map(|health| health.metrics());
        joined(&texts.collect::<Result<Vec<_>, _>>()?)
    }
}

/// Several OpenMetrics texts as one: each family once, with the samples of all.
fn joined(texts: &[String]) -> Result<String, std::fmt::Error> {
    let mut order: Vec<&str> = Vec::new();
    let mut families: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    for text in texts {
        let mut family = "";
        for line in text.lines().filter(|line| *line != "# EOF") {
            let Some(comment) = line.strip_prefix("# ") else {
                families.entry(family).or_default().1.push(line);
                continue;
            };
            family = comment.split(' ').nth(1).unwrap_or_default();
            if !families.contains_key(family) {
                order.push(family);
            }
            let head = &mut families.entry(family).or_default().0;
            if !head.contains(&line) {
                head.push(line);
            }
        }
    }
    let mut out = String::new();
    for family in order {
        let Some((head, samples)) = families.get(family) else {
            continue;
        };
        for line in head.iter().chain(samples) {
            writeln!(out, "{line}")?;
        }
    }
    writeln!(out, "# EOF")?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_of_two_pools_are_one_text_with_each_family_once() {
        let of = |pool: &str| {
            format!(
                "# HELP up Up.\n# TYPE up gauge\nup{{pool=\"{pool}\"}} 1\n# HELP n N.\n# TYPE n counter\nn_total{{pool=\"{pool}\"}} 2\n# EOF\n"
            )
        };
        let expected = "# HELP up Up.\n# TYPE up gauge\nup{pool=\"a\"} 1\nup{pool=\"b\"} 1\n\
                        # HELP n N.\n# TYPE n counter\nn_total{pool=\"a\"} 2\nn_total{pool=\"b\"} 2\n# EOF\n";
        assert_eq!(joined(&[of("a"), of("b")]).unwrap(), expected);
        assert_eq!(joined(&[]).unwrap(), "# EOF\n");
    }

    #[test]
    fn an_operator_is_ready_when_the_api_answers() {
        let reports = Reports::default();
        assert!(reports.ready().is_err());
        reports.contact(Err("refused".to_owned()));
        assert_eq!(reports.ready(), Err("refused".to_owned()));
        reports.contact(Ok(()));
        assert_eq!((reports.ready(), reports.live()), (Ok(()), Ok(())));
    }
}
