use super::*;

#[test]
fn versions_are_numbers_as_the_server_has_them() {
    let table = [
        ("15.10 (Debian 15.10-0+deb12u1)", Some(150_010)),
        ("18beta1", Some(180_000)),
        ("17devel", Some(170_000)),
        ("9.6.24", Some(90_624)),
        ("", None),
        ("unknown", None),
        ("99999999999", None),
    ];
    for (text, expected) in table {
        assert_eq!(version_num(text), expected, "{text}");
    }
}

/// Calls can be made from tasks that move between threads. Never run: that it compiles is the test.
#[test]
fn calls_can_be_sent_between_threads() {
    fn check<T: Send>(_: T) {}
    fn calls(
        c: &mut Connection,
        d: &mut Connection,
        e: &mut Connection,
        f: &mut Connection,
        config: &Config,
    ) {
        check(Connection::connect(config));
        check(c.query("select 1"));
        check(d.query_many("select $1", [[Some("1")]], Options::default()));
        check(e.copy_in_all("copy t from stdin", ["x"]));
        check(f.next_message());
    }
    let _ = calls;
}
