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
