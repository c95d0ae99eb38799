//! Who may log in.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::limits::{IDENTIFIER_MAX, hours, ms};
use super::servers::{key_secret, login_secret, pair_secret};
use crate::raw;
use crate::{Auth, ClientFacingTls, ClientTlsMode, Faults, IdleExemption, Matcher, hba};

/// The fields that say for whom a rule is.
pub(super) struct Whom {
    pub(super) user: Option<String>,
    pub(super) database: Option<String>,
    pub(super) application_name: Option<String>,
    pub(super) address: Option<String>,
}

pub(super) fn matcher(faults: &mut Faults, whom: Whom) -> Matcher {
    let Whom {
        user,
        database,
        application_name,
        address,
    } = whom;
    let address = faults.optional_text("address", address, 64).and_then(|text| {
        let net = IpNet::from_str(&text).or_else(|_| IpAddr::from_str(&text).map(IpNet::from));
        if net.is_err() {
            faults.add(
                "address",
                format!("expected a network such as 10.0.0.0/8 or an address, is {text:?}"),
            );
        }
        net.ok().map(|net| net.trunc())
    });
    Matcher {
        user: faults.optional_text("user", user, IDENTIFIER_MAX),
        database: faults.optional_text("database", database, IDENTIFIER_MAX),
        application_name: faults.optional_text("applicationName", application_name, IDENTIFIER_MAX),
        address,
    }
}

pub(super) fn idle_exemptions(faults: &mut Faults, written: Vec<raw::IdleExemption>) -> Vec<IdleExemption> {
    let written = faults.at_most("idleExemptions", written, 64);
    let each = written.into_iter().enumerate().map(|(index, rule)| {
        faults.within(&format!("idleExemptions[{index}]"), |faults| {
            let raw::IdleExemption {
                user,
                database,
                application_name,
                address,
            } = rule;
            if user.is_none() && database.is_none() && application_name.is_none() && address.is_none() {
                faults.add("", "must have user, database, applicationName or address");
            }
            matcher(
                faults,
                Whom {
                    user,
                    database,
                    application_name,
                    address,
                },
            )
        })
    });
    each.collect()
}

pub(super) fn tls(faults: &mut Faults, written: raw::ClientTls) -> ClientFacingTls {
    let raw::ClientTls {
        mode,
        cert_secret_ref,
        client_ca_secret_ref,
        min_version,
    } = written;
    if mode == ClientTlsMode::Require && cert_secret_ref.is_none() {
        faults.add("certSecretRef", "is missing: mode require needs a certificate");
    }
    if cert_secret_ref.is_none() && client_ca_secret_ref.is_some() {
        faults.add("clientCaSecretRef", "is of no use without certSecretRef");
    }
    ClientFacingTls {
        mode,
        cert_secret: faults.within("certSecretRef", |faults| pair_secret(faults, cert_secret_ref)),
        client_ca_secret: faults.within("clientCaSecretRef", |faults| {
            key_secret(faults, client_ca_secret_ref)
        }),
        min_version,
    }
}

pub(super) fn auth(
    faults: &mut Faults,
    warnings: &mut Faults,
    written: raw::Auth,
    tls: &ClientFacingTls,
) -> Auth {
    let raw::Auth {
        hba,
        user_secret_refs,
        auth_query,
        cache_for,
    } = written;
    faults.within("auth", |faults| {
        let hba = faults.at_most("hba", hba, 256);
        if hba.is_empty() {
            faults.add("hba", "must have at least one line, or nobody can log in");
        }
        for (index, line) in hba.iter().enumerate() {
            check_line(faults, warnings, index, line, tls);
        }
        let secrets = faults.at_most("userSecretRefs", user_secret_refs, 64);
        let secrets = secrets.into_iter().enumerate().filter_map(|(index, secret)| {
            let key = format!("userSecretRefs[{index}]");
            faults.within(&key, |faults| login_secret(faults, Some(secret)))
        });
        let user_secrets = secrets.collect();
        Auth {
            hba,
            user_secrets,
            auth_query,
            cache_for: faults.duration("cacheFor", &cache_for, ms(0)..=hours(24)),
        }
    })
}

fn check_line(faults: &mut Faults, warnings: &mut Faults, index: usize, line: &str, tls: &ClientFacingTls) {
    let key = format!("hba[{index}]");
    let offered = tls.cert_secret.is_some() && tls.mode != ClientTlsMode::Disable;
    match hba::parse(line) {
        Err(message) => faults.add(&key, format!("{message}, in {line:?}")),
        Ok(None) => warnings.add(&format!("auth.{key}"), "is empty or a comment"),
        Ok(Some(rule)) => {
            let asks = rule.method == hba::Method::Cert || rule.options.contains_key("clientcert");
            if asks && tls.client_ca_secret.is_none() {
                faults.add(
                    &key,
                    format!("asks for client certificates: needs tls.clientCaSecretRef, in {line:?}"),
                );
            } else if rule.connection == hba::ConnectionType::HostSsl && !offered {
                warnings.add(
                    &format!("auth.{key}"),
                    "never matches: tls has no certificate, or mode disable",
                );
            } else if rule.method == hba::Method::Password && !offered {
                warnings.add(
                    &format!("auth.{key}"),
                    "method password is for TLS only, and tls has no certificate",
                );
            }
        }
    }
}
