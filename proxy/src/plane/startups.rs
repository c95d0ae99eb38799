//! What startup packets ask servers for: worked out once for clients that say the same, as those of one program do.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crds::ApplicationName;

use super::client::Peer;
use super::settings::{Settings, SettingsInterner};

/// The setting clients differ in most.
const NAME: &str = "application_name";
/// Different packets that are remembered.
const KEPT_MAX: usize = 16;
/// Parameters of a packet that is remembered.
const PARAMETERS_MAX: usize = 32;

/// What a client starts with.
#[derive(Clone)]
pub(super) struct Startup {
    /// What servers are opened with for it. It always names the application, so that workers of clients with and without
    /// a name can serve each other.
    pub(super) settings: Rc<Settings>,
    /// The same without that name: clients that differ only in it are greeted alike.
    pub(super) greeted_as: Rc<Settings>,
    /// That name.
    pub(super) application_name: Rc<str>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Startups(RefCell<VecDeque<Known>>);

struct Known {
    parameters: Arc<Vec<(String, String)>>,
    naming: ApplicationName,
    startup: Startup,
}

impl Startups {
    /// What a client with these parameters starts with.
    pub(super) fn of(
        &self,
        interner: &SettingsInterner,
        parameters: Arc<Vec<(String, String)>>,
        naming: ApplicationName,
        peer: &Peer,
    ) -> Startup {
        // With its address in its name every client is another.
        if naming == ApplicationName::Address || parameters.len() > PARAMETERS_MAX {
            return work_out(interner, &parameters, naming, peer);
        }
        let mut known = self.0.borrow_mut();
        // Usually it is the very same list; if not, it may still say the same.
        let same = |known: &&Known| known.naming == naming && known.parameters == parameters;
        if let Some(known) = known.iter().find(same) {
            return known.startup.clone();
        }
        let startup = work_out(interner, &parameters, naming, peer);
        known.truncate(KEPT_MAX - 1);
        known.push_front(Known {
            parameters,
            naming,
            startup: startup.clone(),
        });
        startup
    }
}

fn work_out(
    interner: &SettingsInterner,
    parameters: &[(String, String)],
    naming: ApplicationName,
    peer: &Peer,
) -> Startup {
    let own = parameters.iter().find(|(name, _)| name == NAME);
    let own = own.map_or("", |(_, value)| value);
    let shown = match naming {
        ApplicationName::Follow => own.to_owned(),
        ApplicationName::Pool => "pgstmtpool".to_owned(),
        ApplicationName::Address if own.is_empty() => peer.to_string(),
        ApplicationName::Address => format!("{own} {peer}"),
    };
    let others = parameters.iter().filter(|(name, _)| name != NAME).cloned();
    let application_name = shown.as_str().into();
    let settings = interner.intern(others.chain([(NAME.to_owned(), shown)]));
    Startup {
        greeted_as: interner.with(&settings, vec![(NAME.to_owned(), None)]),
        settings,
        application_name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(pairs: &[(&str, &str)]) -> Arc<Vec<(String, String)>> {
        let owned = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
        Arc::new(pairs.iter().map(owned).collect())
    }

    #[test]
    fn clients_that_say_the_same_start_with_the_same_and_others_do_not() {
        let (interner, startups) = (SettingsInterner::default(), Startups::default());
        let of = |pairs: &[(&str, &str)], naming| startups.of(&interner, packet(pairs), naming, &Peer::Unix);
        let follow = ApplicationName::Follow;
        let first = of(&[("application_name", "a"), ("datestyle", "ISO")], follow);
        for n in 0..2 * KEPT_MAX {
            let other = of(
                &[("application_name", &n.to_string()), ("datestyle", "ISO")],
                follow,
            );
            assert!(!Rc::ptr_eq(&first.settings, &other.settings));
            assert!(Rc::ptr_eq(&first.greeted_as, &other.greeted_as));
            assert_eq!(*other.application_name, *n.to_string());
        }
        let again = of(&[("application_name", "a"), ("datestyle", "ISO")], follow);
        assert!(Rc::ptr_eq(&first.settings, &again.settings));
        assert_eq!(again.settings.get("datestyle"), Some("ISO"));
        assert!(startups.0.borrow().len() <= KEPT_MAX);
    }

    #[test]
    fn a_name_is_given_as_the_manifest_says_now() {
        let (interner, startups) = (SettingsInterner::default(), Startups::default());
        let named = |naming| {
            let startup = startups.of(
                &interner,
                packet(&[("application_name", "a")]),
                naming,
                &Peer::Unix,
            );
            assert_eq!(
                startup.settings.get("application_name"),
                Some(&*startup.application_name)
            );
            startup.application_name.to_string()
        };
        for naming in [
            (ApplicationName::Follow, "a"),
            (ApplicationName::Pool, "pgstmtpool"),
            (ApplicationName::Address, "a unix"),
            (ApplicationName::Follow, "a"),
        ] {
            assert_eq!(named(naming.0), naming.1);
        }
    }
}
