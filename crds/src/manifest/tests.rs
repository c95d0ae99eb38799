use std::time::Duration;

use super::*;
use crate::{Address, ClientTlsMode, PoolMode};

fn head(spec: &str) -> String {
    format!("apiVersion: pgstmtpool.io/v1alpha1\nkind: PgPool\nmetadata: {{name: p}}\nspec:\n{spec}")
}

/// A pool with a master and this below `spec`.
fn with(spec: &str) -> String {
    let lines: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    head(&format!("  master: {{name: a, host: 127.0.0.1}}\n{lines}"))
}

fn good(text: &str) -> PoolConfig {
    parse_manifest(text, "x.yaml")
        .unwrap_or_else(|faults| panic!("{text}\n{faults:#?}"))
        .pools
        .remove(0)
}

fn faults(text: &str) -> Vec<String> {
    let faults = parse_manifest(text, "x.yaml").expect_err(text);
    faults
        .iter()
        .map(|fault| format!("{}: {}", fault.path, fault.message))
        .collect()
}

#[test]
fn the_shortest_manifest_has_the_defaults_everywhere() {
    let expected = PoolConfig {
        name: "p".to_owned(),
        ..PoolConfig::default()
    };
    let mut read = good(&with(""));
    assert!(!read.auth.auth_query, "nobody to ask");
    read.auth.auth_query = true;
    assert_eq!(read, expected);
}

#[test]
fn the_shipped_local_example_is_good() {
    let manifest = parse_manifest(include_str!("../../../examples/pgpool-local.yaml"), "x").unwrap();
    let pool = manifest.pool(None).unwrap();
    assert_eq!(pool.name, "local");
    assert_eq!(
        pool.master.address,
        Address::Host {
            host: "127.0.0.1".into(),
            port: 5432
        }
    );
    assert_eq!(pool.servers().len(), 2);
    assert!(pool.ha.enabled);
    assert_eq!(manifest.secret("local-users").unwrap().values["app"], "change-me");
    assert_eq!(manifest.warnings, []);
}

#[test]
fn the_shipped_cluster_examples_are_good_but_for_their_pods() {
    for text in [
        include_str!("../../../examples/pgpool-cluster.yaml"),
        include_str!("../../../examples/pgpool-all-fields.yaml"),
    ] {
        let message = "no Kubernetes here: give host";
        let found = parse_manifest(text, "x").unwrap_err();
        assert!(found.iter().all(|fault| fault.message == message), "{found:#?}");
        let local = text.replace("podName: pg-", "host: pg-");
        parse_manifest(&local, "x").unwrap_or_else(|faults| panic!("{faults:#?}"));
    }
}

#[test]
fn the_example_of_all_fields_shows_the_defaults() {
    let text = include_str!("../../../examples/pgpool-all-fields.yaml").replace("podName: pg-", "host: pg-");
    let read = good(&text);
    let defaults = good(&head("  master: {name: pg-0, host: pg-0}\n"));
    assert_eq!(read.proxy.replicas, Some(2), "which has no default");
    let expected = PoolConfig {
        name: "all".to_owned(),
        admin_secret: read.admin_secret.clone(),
        auth: crate::Auth::default(),
        proxy: crate::Proxy {
            replicas: Some(2),
            ..defaults.proxy.clone()
        },
        ..defaults
    };
    assert_eq!(read, expected);
}

#[test]
fn the_example_of_all_fields_names_every_field() {
    let text = include_str!("../../../examples/pgpool-all-fields.yaml");
    let written = serde_json::to_value(crate::raw::PgPoolSpec::default()).unwrap();
    let mut missing = Vec::new();
    names(&written, &mut |name| {
        if !text.contains(&format!("{name}:")) {
            missing.push(name.to_owned());
        }
    });
    assert_eq!(missing, Vec::<String>::new());
}

fn names(value: &serde_json::Value, found: &mut dyn FnMut(&str)) {
    for (name, value) in value.as_object().into_iter().flatten() {
        found(name);
        names(value, found);
    }
}

#[test]
fn each_fault_has_its_path_and_says_what_was_expected() {
    let table = [
        // unknown, repeated, of the wrong type
        (
            "workers: {maxx: 3}",
            "spec.workers.maxx: unknown field, did you mean max?",
        ),
        (
            "colour: red",
            "spec.colour: unknown field, expected one of adminSecretRef, allowReplication",
        ),
        (
            "workers: {max: twenty}",
            "spec.workers.max: expected a whole number, is \"twenty\"",
        ),
        (
            "workers: {max: 2.5}",
            "spec.workers.max: expected a whole number, is the number 2.5",
        ),
        ("workers: 7", "spec.workers: expected a mapping, is the number 7"),
        (
            "workers: {minByClients: 7}",
            "spec.workers.minByClients: expected a list, is the number 7",
        ),
        (
            "workers: {minByClients: [1, x]}",
            "spec.workers.minByClients[1]: expected a whole number, is \"x\"",
        ),
        (
            "workers: {minByClients: [1, ~]}",
            "spec.workers.minByClients[1]: is empty",
        ),
        (
            "deferBegin: yes",
            "spec.deferBegin: expected true or false, is \"yes\"",
        ),
        (
            "poolMode: stmt",
            "spec.poolMode: expected one of statement, transaction, session, is \"stmt\"",
        ),
        (
            "timeouts: {query: 5}",
            "spec.timeouts.query: expected a duration such as 500ms, 30s, 5m or 24h, is the",
        ),
        (
            "tls: {minVersion: 1.2}",
            "spec.tls.minVersion: expected one of 1.2, 1.3, is the number 1.2 (text needs",
        ),
        (
            "budget: {perServer: 1, perServer: 2}",
            "spec.budget.perServer: is written twice, first in line 6",
        ),
        // out of range
        ("workers: {max: 0}", "spec.workers.max: must be 1 to 10000, is 0"),
        (
            "workers: {max: -3}",
            "spec.workers.max: must be 1 to 10000, is -3",
        ),
        (
            "workers: {minByClients: []}",
            "spec.workers.minByClients: must have at least one value",
        ),
        (
            "workers: {minByClients: [1, 20000]}",
            "spec.workers.minByClients[1]: must be 0 to 10000, is 20000",
        ),
        (
            "workers: {lifetime: 10ms}",
            "spec.workers.lifetime: must be 1s to 8784h, is 10ms",
        ),
        (
            "workers: {pipeline: {maxDepth: 0}}",
            "spec.workers.pipeline.maxDepth: must be 1 to 1000, is 0",
        ),
        (
            "timeouts: {login: 0s}",
            "spec.timeouts.login: must be 100ms to 10m, is 0s",
        ),
        (
            "timeouts: {login: 5 s}",
            "spec.timeouts.login: expected a duration such as 500ms, 30s, 5m or 24h, is \"5 s\"",
        ),
        (
            "limits: {maxQuerySize: 2GiB}",
            "spec.limits.maxQuerySize: must be 1KiB to 1GiB, is 2GiB",
        ),
        (
            "limits: {maxQuerySize: 64MB}",
            "spec.limits.maxQuerySize: expected a size such as 64KiB, 256MiB or 1GiB",
        ),
        (
            "limits: {maxQuerySize: true}",
            "spec.limits.maxQuerySize: expected a size such as 64KiB, 256MiB or 1GiB",
        ),
        (
            "limits: {clientBuffer: -1}",
            "spec.limits.clientBuffer: expected a size such as 64KiB, 256MiB or 1GiB, is -1",
        ),
        (
            "cache: {maxBytes: 1MiB, maxEntry: 2MiB}",
            "spec.cache.maxEntry: must be at most maxBytes",
        ),
        (
            "cache: {disk: {path: here, maxBytes: 1GiB}}",
            "spec.cache.disk.path: must be absolute",
        ),
        (
            "cache: {rules: [{query: x}]}",
            "spec.cache.rules[0].ttl: is missing",
        ),
        (
            "routing: {rules: [{query: '(', to: master}]}",
            "spec.routing.rules[0].query: expected a regular expression",
        ),
        (
            "routing: {rules: [{query: x}]}",
            "spec.routing.rules[0].to: is missing: expected master or replica",
        ),
        (
            "routing: {userSuffix: xxxxxxxxxxxxxxxxx}",
            "spec.routing.userSuffix: must be at most 16 bytes",
        ),
        (
            "ha: {probePeriod: 1ms}",
            "spec.ha.probePeriod: must be 20ms to 1m, is 1ms",
        ),
        (
            "idleExemptions: [{}]",
            "spec.idleExemptions[0]: must have user, database, applicationName or address",
        ),
        (
            "idleExemptions: [{address: 10.0.0.0/33}]",
            "spec.idleExemptions[0].address: expected a network such as",
        ),
        // servers
        (
            "replicas: [{name: B, host: x}]",
            "spec.replicas[0].name: must be 1 to 40 of a-z, 0-9 and -",
        ),
        ("replicas: [{host: x}]", "spec.replicas[0].name: is missing"),
        ("replicas: [{name: b}]", "spec.replicas[0].host: is missing"),
        (
            "replicas: [{name: b, podName: b}]",
            "spec.replicas[0].podName: no Kubernetes here: give host",
        ),
        (
            "replicas: [{name: b, podName: b, host: b}]",
            "spec.replicas[0]: has podName and host: exactly one",
        ),
        (
            "replicas: [{name: b, host: x, port: 0}]",
            "spec.replicas[0].port: must be 1 to 65535, is 0",
        ),
        (
            "replicas: [{name: b, host: x, weight: 1001}]",
            "spec.replicas[0].weight: must be 0 to 1000, is 1001",
        ),
        (
            "replicas: [{name: b, host: 'x:5433'}]",
            "spec.replicas[0].host: without the port: write host: x, port: 5433",
        ),
        (
            "replicas: [{name: b, host: '[::1]'}]",
            "spec.replicas[0].host: without brackets: ::1",
        ),
        (
            "replicas: [{name: b, host: 10.0.0.300}]",
            "spec.replicas[0].host: expected a name, an address or a folder",
        ),
        (
            "replicas: [{name: b, host: 'a b'}]",
            "spec.replicas[0].host: expected a name, an address or a folder",
        ),
        (
            "replicas: [{name: b, host: 127.0.0.1}]",
            "spec.replicas[0]: has the address of a in spec.master: 127.0.0.1:5432",
        ),
        (
            "replicas: [{name: b, host: x}, {name: b, host: y}]",
            "spec.replicas[1]: b is at y:5432 here and at x:5432 in spec.replicas[0]",
        ),
        ("selector: {app: pg}", "spec.selector: no Kubernetes here"),
        // Secrets
        (
            "adminSecretRef: {name: nope}",
            "spec.adminSecretRef.name: there is no Secret \"nope\" in this file",
        ),
        ("adminSecretRef: {}", "spec.adminSecretRef.name: is missing"),
        (
            "adminSecretRef: {name: A_B}",
            "spec.adminSecretRef.name: expected the name of a Secret",
        ),
        (
            "ha: {enabled: true}",
            "spec.adminSecretRef: is missing: ha.enabled needs the operator's login",
        ),
        (
            "auth: {userSecretRefs: [{name: u}]}",
            "spec.auth.userSecretRefs[0].name: there is no Secret \"u\"",
        ),
        (
            "tls: {mode: require}",
            "spec.tls.certSecretRef: is missing: mode require needs a certificate",
        ),
        // access
        ("auth: {hba: []}", "spec.auth.hba: must have at least one line"),
        (
            "auth: {hba: ['host all all all ldap']}",
            "spec.auth.hba[0]: method ldap is not supported, supported are",
        ),
        (
            "auth: {hba: ['hostssl all all all cert']}",
            "spec.auth.hba[0]: asks for client certificates: needs tls.",
        ),
        // agreement
        (
            "durability: {mode: Required}",
            "spec.durability.syncReplicas: must be less than the number of servers, 1, is 1",
        ),
        (
            "switchover: {to: z, requestId: '1'}",
            "spec.switchover.to: must be one of a, is \"z\"",
        ),
        ("switchover: {to: a}", "spec.switchover.requestId: is missing"),
        (
            "databases: [{name: d}, {name: d}]",
            "spec.databases[1].name: \"d\" is listed twice",
        ),
        (
            "databases: [{name: pseudo}]",
            "spec.databases[0].name: \"pseudo\" is the admin database",
        ),
        (
            "databases: [{name: d, users: [{name: u, workers: {max: 0}}]}]",
            "spec.databases[0].users[0].workers.max: must",
        ),
        (
            "users: [{name: u, timeouts: {login: 1s}}]",
            "spec.users[0].timeouts.login: unknown field, expected one of",
        ),
        (
            "proxy: {podTemplate: {specs: {}}}",
            "spec.proxy.podTemplate.specs: unknown field",
        ),
        (
            "proxy: {autoscaling: {minReplicas: 3, maxReplicas: 2, targetClients: 1}}",
            "spec.proxy.autoscaling.minReplicas:",
        ),
    ];
    for (spec, expected) in table {
        let found = faults(&with(spec));
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{spec}\nexpected {expected}\nfound {found:#?}"
        );
    }
}

#[test]
fn a_pool_without_a_master_is_refused_with_what_was_expected() {
    assert_eq!(
        faults(&head("  replicas: []")),
        ["spec.master: is missing: expected {name: ..., host: ...}"]
    );
    assert_eq!(
        faults("apiVersion: pgstmtpool.io/v1alpha1\nkind: PgPool\nmetadata: {name: p}"),
        ["spec: is missing"]
    );
    let weight = head("  master: {name: a, host: x, weight: 5}");
    assert!(faults(&weight)[0].starts_with("spec.master.weight: is of replicas only"));
}

#[test]
fn all_faults_come_at_once_in_the_order_of_their_lines() {
    let text =
        with("workers:\n  max: 0\n  colour: red\ntimeouts: {query: never}\nreplicas:\n- {name: b}\nauth: 7");
    let found = parse_manifest(&text, "dir/x.yaml").unwrap_err();
    let shown: Vec<_> = found.iter().map(ToString::to_string).collect();
    let starts = [
        "dir/x.yaml:7: spec.workers.max: must be 1 to 10000, is 0",
        "dir/x.yaml:8: spec.workers.colour: unknown field, expected one of",
        "dir/x.yaml:9: spec.timeouts.query: expected a duration",
        "dir/x.yaml:11: spec.replicas[0].host: is missing",
        "dir/x.yaml:12: spec.auth: expected a mapping, is the number 7",
    ];
    assert_eq!(shown.len(), starts.len(), "{shown:#?}");
    for (shown, start) in shown.iter().zip(starts) {
        assert!(shown.starts_with(start), "{shown}");
    }
}

#[test]
fn what_looks_like_ours_but_is_misspelt_is_a_fault() {
    let table = [
        (
            "apiVersion: pgstmtpool.io/v1\nkind: PgPool",
            "apiVersion: expected pgstmtpool.io/v1alpha1, is",
        ),
        (
            "apiVersion: pgstmtpool/v1alpha1\nkind: PgPool",
            "apiVersion: expected pgstmtpool.io/v1alpha1, is",
        ),
        (
            "apiVersion: pgstmtpool.io/v1alpha1\nkind: Pgpool",
            "kind: expected PgPool of",
        ),
        (
            "apiVersion: pgstmtpol.io/v1alpha1\nkind: Pool",
            "kind: expected PgPool of",
        ),
        (
            "kind: PgPool",
            "apiVersion: expected pgstmtpool.io/v1alpha1, is \"\"",
        ),
        (
            "apiVersion: v1\nkind: Secrets",
            "kind: expected Secret, is \"Secrets\"",
        ),
        ("spec: {}", "apiVersion: is missing"),
        ("just text", ": expected a document with apiVersion"),
    ];
    for (text, expected) in table {
        let found = faults(&format!("{}\n---\n{text}\n", with("")));
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{text}: {found:#?}"
        );
    }
}

#[test]
fn documents_of_others_are_left_alone_with_a_warning() {
    for other in [
        "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nwhatever: 1",
        "apiVersion: kubedb.com/v1alpha2\nkind: Pgpool",
        "apiVersion: apps/v1\nkind: StatefulSet",
    ] {
        let manifest = parse_manifest(&format!("{}\n---\n{other}\n", with("")), "x.yaml").unwrap();
        let warnings: Vec<_> = manifest.warnings.iter().map(ToString::to_string).collect();
        assert!(
            warnings
                .iter()
                .any(|warning| warning.ends_with("is not for us and left alone")),
            "{warnings:?}"
        );
    }
}

#[test]
fn several_pools_are_told_apart_by_name() {
    let second = with("workers: {max: 7}").replace("name: p}", "name: q}");
    let both = format!("{}---\n{second}", with(""));
    let manifest = parse_manifest(&both, "x.yaml").unwrap();
    assert_eq!(manifest.pool(Some("q")).unwrap().workers.max, 7);
    assert!(
        manifest
            .pool(None)
            .unwrap_err()
            .message
            .ends_with("say which with --pool: p, q")
    );
    assert!(
        manifest
            .pool(Some("r"))
            .unwrap_err()
            .message
            .contains("holds no pool \"r\", only p, q")
    );
    let bad = both.replace("max: 7", "max: 0");
    assert_eq!(faults(&bad), ["q spec.workers.max: must be 1 to 10000, is 0"]);
    assert!(faults(&format!("{}---\n{}", with(""), with("")))[0].contains("two pools of the name \"p\""));
}

#[test]
fn a_file_without_a_pool_is_refused() {
    for text in ["", "# nothing\n", "---\n---\n"] {
        assert!(
            faults(text)[0].contains("holds no document of kind PgPool"),
            "{text:?}"
        );
    }
}

#[test]
fn secrets_are_read_from_data_and_string_data_and_never_shown() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
    let text = format!(
        "{}---\n{secret}type: kubernetes.io/basic-auth\ndata: {{username: YWRt, password: b2xk}}\nstringData: {{password: 'new'}}",
        with("adminSecretRef: {name: s}")
    );
    let manifest = parse_manifest(&text, "x.yaml").unwrap();
    let read = manifest.secret("s").unwrap();
    assert_eq!(
        (read.values["username"].as_str(), read.values["password"].as_str()),
        ("adm", "new")
    );
    assert!(!format!("{manifest:?}").contains("new\""));
    for (body, expected) in [
        (
            "stringData: {password: 12345}",
            "stringData.password: expected text",
        ),
        ("data: {password: '?hunter2?'}", "data.password: expected base64"),
        ("data: {password: /w==}", "data.password: does not decode to text"),
        ("stringData: hunter2", "stringData: expected a mapping"),
        (
            "stringdata: {a: hunter2}",
            "stringdata: unknown field, did you mean stringData?",
        ),
    ] {
        let found = faults(&format!("{}---\n{secret}{body}", with("")));
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
        assert!(!found[0].contains("hunter2") && !found[0].contains("12345"));
    }
    let missing = format!(
        "{}---\n{secret}stringData: {{user: x}}",
        with("adminSecretRef: {name: s}")
    );
    assert_eq!(
        faults(&missing),
        ["spec.adminSecretRef: Secret \"s\" has no key \"username\""]
    );
}

#[test]
fn secrets_from_elsewhere_count_but_those_in_the_file_win() {
    let text = with("adminSecretRef: {name: s}");
    let values = [("username".to_owned(), "u".to_owned())].into();
    let elsewhere = [SecretDocument {
        name: "s".into(),
        kind: String::new(),
        values,
    }];
    let manifest = parse_manifest_with(&text, "x.yaml", &elsewhere).unwrap();
    assert_eq!(manifest.secret("s").unwrap().values["username"], "u");
    let here = format!(
        "{text}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{username: w}}"
    );
    let manifest = parse_manifest_with(&here, "x.yaml", &elsewhere).unwrap();
    assert_eq!(manifest.secret("s").unwrap().values["username"], "w");
}

#[test]
fn servers_listed_twice_add_their_weights() {
    let pool = good(&with(
        "replicas:\n- {name: b, host: x}\n- {name: b, host: x, weight: 50}\n- {name: a, host: 127.0.0.1, weight: 30}\n- {name: c, host: /run/pg, weight: 0}",
    ));
    let weights: Vec<_> = pool
        .servers()
        .iter()
        .map(|server| (server.name.clone(), server.weight))
        .collect();
    assert_eq!(weights, [("a".into(), 30), ("b".into(), 150), ("c".into(), 0)]);
    assert_eq!(
        good(&with("")).servers()[0].weight,
        0,
        "a master that is no replica takes no reads"
    );
}

#[test]
fn the_user_wins_over_the_database_over_the_pool() {
    let pool = good(&with(
        "timeouts: {query: 9s}\ndatabases:\n- {name: d, serverName: real, poolMode: session, workers: {max: 5}, timeouts: {query: 0s}, users: [{name: v, workers: {max: 3}}]}\nusers:\n- {name: u, poolMode: statement, limits: {maxClients: 7}}\n- {name: v, workers: {max: 9}}",
    ));
    let d = |user| pool.effective("d", user);
    assert_eq!(
        (d("x").pool_mode, d("x").max_workers, d("x").timeouts.query),
        (PoolMode::Session, 5, None)
    );
    assert_eq!(d("x").server_database, "real");
    assert_eq!(
        (d("u").pool_mode, d("u").max_user_clients),
        (PoolMode::Statement, 7)
    );
    assert_eq!(d("v").max_workers, 3);
    let other = pool.effective("e", "x");
    assert_eq!((other.pool_mode, other.max_workers), (PoolMode::Transaction, 20));
    assert_eq!(other.timeouts.query, Some(Duration::from_secs(9)));
    assert_eq!(other.server_database, "e");
}

#[test]
fn zero_is_never_and_null_is_the_default() {
    let pool = good(&with(
        "timeouts: {queryWait: 0s, idleInTransaction: ~}\nworkers: {idleTimeout: 0s}\ntls: ~",
    ));
    assert_eq!(pool.timeouts.query_wait, None);
    assert_eq!(pool.timeouts.idle_in_transaction, Some(Duration::from_secs(300)));
    assert_eq!(pool.workers.idle_timeout, None);
    assert_eq!(pool.tls.mode, ClientTlsMode::Allow);
}

#[test]
fn off_needs_no_quotes_in_a_file() {
    assert_eq!(
        good(&with("routing: {readSplit: off}")).routing.read_split,
        crate::ReadSplit::Off
    );
}

#[test]
fn hostile_yaml_is_refused_in_bounded_time() {
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    let deep = "[".repeat(100_000);
    let nested = format!("{}x", "- ".repeat(5_000));
    let long = "x".repeat(5 << 20);
    let list = format!("a: [{}]", "1,".repeat(200_000));
    let documents = "---\na: 1\n".repeat(5_000);
    for text in [
        bomb,
        &deep,
        &nested,
        &long,
        &list,
        &documents,
        "a: b: c",
        "a: *x",
        "\0",
        "%YAML 9.9\n---\n",
    ] {
        let found = parse_manifest(text, "x.yaml").expect_err("refused");
        assert!(!found.is_empty() && found.len() <= 200);
    }
}

#[test]
fn faults_are_cut_off_where_nobody_reads_on() {
    let many: String = (0..5_000).map(|index| format!("x{index}: 1\n")).collect();
    assert!(faults(&with(&many)).len() <= 200);
}

#[test]
fn a_fault_of_syntax_has_its_line_and_no_text_of_the_file() {
    for value in [
        "hunter2\n bad: [",
        "!!int hunter2",
        "!!float hunter2",
        "!!bool hunter2",
        "!!binary hunter2?",
        "\"hunter2",
        "'hunter2",
        "hunter2: x: y",
        "{hunter2",
        "!hunter2! x",
        "\"hunter2\\q\"",
        "|9999999999\n hunter2",
    ] {
        let text = format!(
            "{}---\nkind: Secret\nstringData:\n  password: {value}\n",
            with("")
        );
        let found = parse_manifest(&text, "x.yaml").unwrap_err();
        if found[0].message.starts_with("is not valid YAML") {
            assert!(found[0].line.is_some(), "{value}: {found:?}");
        }
        assert!(!format!("{found:?}").contains("hunter2"), "{value}: {found:?}");
    }
}
