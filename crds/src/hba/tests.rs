use super::*;

fn rule(line: &str) -> Rule {
    parse(line).unwrap().unwrap()
}

fn facts<'a>(address: Option<&str>, tls: bool, database: &'a str, user: &'a str) -> Facts<'a> {
    Facts {
        address: address.map(|text| text.parse().unwrap()),
        tls,
        database,
        user,
        replication: false,
        member_of: &|group| group == "staff",
        comes_from: &|host| host == ".example.org",
        own_networks: &[],
    }
}

#[test]
fn empty_lines_and_comments_are_no_rules() {
    for line in ["", "   ", "# host all all all trust", "\t#"] {
        assert_eq!(parse(line), Ok(None), "{line:?}");
    }
}

#[test]
fn every_field_is_read() {
    let parsed =
        rule(r#"hostssl sales, "all",/^app_ +staff,bob 10.1.2.3/8 cert clientcert=verify-full # why"#);
    assert_eq!(parsed.connection, ConnectionType::HostSsl);
    assert_eq!(
        parsed.databases,
        [
            DatabaseItem::Name("sales".into()),
            DatabaseItem::Name("all".into()),
            DatabaseItem::Regex(pattern("^app_").unwrap())
        ]
    );
    assert_eq!(
        parsed.users,
        [UserItem::Group("staff".into()), UserItem::Name("bob".into())]
    );
    assert_eq!(parsed.address, AddressItem::Net("10.0.0.0/8".parse().unwrap()));
    assert_eq!(parsed.method, Method::Cert);
    assert_eq!(parsed.options["clientcert"], "verify-full");
    assert_eq!(
        rule(r#"local "a""b" all trust"#).databases,
        [DatabaseItem::Name("a\"b".into())]
    );
    assert_eq!(
        rule("host all all 192.168.7.9 255.255.255.0 md5").address,
        AddressItem::Net("192.168.7.0/24".parse().unwrap())
    );
}

#[test]
fn what_is_wrong_is_said() {
    let table = [
        ("host", "ends before the database"),
        ("host all", "ends before the user"),
        ("host all all", "ends before the address"),
        ("host all all all", "ends before the method"),
        ("hots all all all trust", "expected local, host, hostssl"),
        (
            "host all all all ldap ldapserver=x",
            "method ldap is not supported, supported are trust, reject",
        ),
        ("host all all all scram", "unknown method \"scram\""),
        (
            "host all all 10.0.0.0/33 trust",
            "expected a network such as 10.0.0.0/8",
        ),
        ("host all all 10.0.0.1 trust", "expected the mask of 10.0.0.1"),
        ("host all all 10.0.0.1 255.0.255.0 trust", "expected the mask"),
        ("host all all 10.0.0.300 trust", "expected all, samehost, samenet"),
        ("host all all all cert", "cert is for hostssl only"),
        ("host all /( all trust", "no regular expression"),
        ("host all all all trust map=x", "unknown option \"map\""),
        (
            "host all all all trust clientcert",
            "expected an option name=value",
        ),
        ("host \"all all all trust", "a quote is not closed"),
        ("host all,,x all all trust", "a word is missing"),
        ("host @dbs all all trust", "not supported"),
        ("host all all all trust\nhost all all all trust", "several lines"),
        ("host all all a,b trust", "one address expected"),
    ];
    for (line, expected) in table {
        let message = parse(line).unwrap_err();
        assert!(message.contains(expected), "{line}: {message}");
    }
}

#[test]
fn a_rule_matches_as_in_postgresql() {
    let tcp = || facts(Some("10.0.0.7"), false, "sales", "bob");
    let tls = || facts(Some("10.0.0.7"), true, "sales", "bob");
    let local = || facts(None, false, "sales", "bob");
    let table = [
        ("local all all trust", local(), true),
        ("local all all trust", tcp(), false),
        ("host all all all trust", local(), false),
        ("host all all all trust", tls(), true),
        ("hostssl all all all trust", tcp(), false),
        ("hostssl all all all trust", tls(), true),
        ("hostnossl all all all trust", tls(), false),
        ("hostgssenc all all all trust", tls(), false),
        ("hostnogssenc all all all trust", tcp(), true),
        (
            "host sameuser all all trust",
            facts(Some("::1"), false, "bob", "bob"),
            true,
        ),
        (
            "host samerole all all trust",
            facts(Some("::1"), false, "staff", "bob"),
            true,
        ),
        (
            "host \"sameuser\" all all trust",
            facts(Some("::1"), false, "bob", "bob"),
            false,
        ),
        ("host all +staff all trust", tcp(), true),
        ("host all +admin all trust", tcp(), false),
        ("host all \"+staff\" all trust", tcp(), false),
        ("host /^sal bob all trust", tcp(), true),
        ("host all /^sal all trust", tcp(), false),
        ("host all all 10.0.0.0/24 trust", tcp(), true),
        ("host all all 10.0.1.0/24 trust", tcp(), false),
        (
            "host all all 10.0.0.0/24 trust",
            facts(Some("::ffff:10.0.0.7"), false, "sales", "bob"),
            true,
        ),
        ("host all all ::/0 trust", tcp(), false),
        ("host all all .example.org trust", tcp(), true),
        ("host all all samehost trust", tcp(), false),
        ("host replication all all trust", tcp(), false),
        (
            "host all all all trust",
            Facts {
                replication: true,
                ..tcp()
            },
            false,
        ),
        (
            "host replication all all trust",
            Facts {
                replication: true,
                ..tcp()
            },
            true,
        ),
    ];
    for (line, client, expected) in table {
        assert_eq!(rule(line).matches(&client), expected, "{line}");
    }
}

#[test]
fn samehost_and_samenet_ask_for_our_networks() {
    let own = ["10.0.0.7/24".parse().unwrap()];
    let from = |address| Facts {
        own_networks: &own,
        ..facts(Some(address), false, "d", "u")
    };
    let (host, net) = (
        rule("host all all samehost trust"),
        rule("host all all samenet trust"),
    );
    assert!(host.matches(&from("10.0.0.7")) && net.matches(&from("10.0.0.7")));
    assert!(!host.matches(&from("10.0.0.8")) && net.matches(&from("10.0.0.8")));
    assert!(!net.matches(&from("10.0.1.8")));
}
