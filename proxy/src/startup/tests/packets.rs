//! What is no login at all, or a broken one.

use super::*;

#[tokio::test]
async fn cve_2015_4054_a_password_before_the_startup_packet_is_the_end() {
    let world = world(SCRAM);
    let mut early = BytesMut::new();
    frontend::password(&mut early, b"secret");
    for bytes in [
        &early[..],
        b"p",
        b"\0\0\0\x04",
        b"\0\0\0\x07aaa",
        b"\xff\xff\xff\xff\xff",
        b"\0\0\x27\x15AAAA",
        b"GET / HTTP/1.0\r\n\r\n",
    ] {
        let mut guest = world.local();
        guest.send(bytes).await;
        guest.socket.shutdown().await.unwrap();
        assert_eq!(guest.refusal().await, <(String, String)>::default(), "{bytes:?}");
        assert!(matches!(guest.login.await.unwrap(), Login::Closed));
    }
}

#[tokio::test]
async fn bad_startup_packets_are_told_so() {
    let world = world(SCRAM);
    let body = |version: u32, rest: &[u8]| {
        let length = u32::try_from(8 + rest.len()).unwrap();
        [&length.to_be_bytes()[..], &version.to_be_bytes(), rest].concat()
    };
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("no terminator", body(3 << 16, b"user\0app"), "08P01"),
        ("something behind it", body(3 << 16, b"user\0app\0\0x"), "08P01"),
        ("no user", body(3 << 16, b"\0"), "28000"),
        ("not text", body(3 << 16, b"user\0\xff\0\0"), "08P01"),
        (
            "a version of the future",
            body(4 << 16, b"user\0app\0\0"),
            "0A000",
        ),
        (
            "replication",
            body(3 << 16, b"user\0app\0replication\0true\0\0"),
            "0A000",
        ),
        (
            "switches",
            body(3 << 16, b"user\0app\0options\0-W 1\0\0"),
            "42601",
        ),
    ];
    for (name, bytes, code) in cases {
        let mut guest = world.local();
        guest.send(&bytes).await;
        assert_eq!(guest.refusal().await.0, code, "{name}");
    }
}

#[tokio::test]
async fn a_client_of_protocol_2_is_refused_in_its_own_language() {
    let world = world(SCRAM);
    let mut guest = world.local();
    guest.send(b"\0\0\x01\x28\0\x02\0\0").await;
    guest.send(&[0; 288]).await;
    let mut text = String::new();
    guest.socket.read_to_string(&mut text).await.unwrap();
    assert_eq!(
        text,
        "EFATAL:  unsupported frontend protocol 2.0: server supports 3.0 to 3.2\n\0"
    );
}

#[tokio::test]
async fn newer_versions_and_unknown_options_are_negotiated() {
    let world = world(&["local all all trust"]);
    let mut guest = world.local();
    let mut packet = BytesMut::new();
    let newest = pgnet::startup::ProtocolVersion {
        major: 3,
        minor: 9999,
    };
    startup::startup(&mut packet, newest, [("user", "app"), ("_pq_.odd", "1")]);
    guest.send(&packet).await;
    let (tag, body) = guest.read().await.unwrap();
    assert_eq!((tag, &body[..]), (b'v', &b"\0\x03\0\x02\0\0\0\x01_pq_.odd\0"[..]));
    guest.prove("app", "").await.unwrap();
    let Login::Client(client) = guest.login.await.unwrap() else {
        panic!("not let in")
    };
    assert_eq!(client.protocol, pgnet::startup::ProtocolVersion::V3_2);
}

#[tokio::test]
async fn cve_2026_6664_a_scram_message_of_length_minus_two_is_refused() {
    let world = world(SCRAM);
    for length in [-2_i32, i32::MIN, i32::MAX, 1] {
        let mut guest = world.local();
        guest.send(&startup_packet(&[("user", "app")])).await;
        guest.read().await.unwrap();
        let body = [&b"SCRAM-SHA-256\0"[..], &length.to_be_bytes()].concat();
        let total = u32::try_from(4 + body.len()).unwrap();
        guest
            .send(&[&b"p"[..], &total.to_be_bytes(), &body].concat())
            .await;
        assert_eq!(guest.refusal().await.0, "08P01", "{length}");
    }
}

#[tokio::test]
async fn wrong_messages_during_a_login_are_the_end() {
    let world = world(SCRAM);
    let cases: [(&str, Vec<u8>); 5] = [
        ("a query", b"Q\0\0\0\x0dselect 1\0".to_vec()),
        ("an endless message", b"p\x7f\xff\xff\xff".to_vec()),
        ("too long by one", [&b"p"[..], &65_536_u32.to_be_bytes()].concat()),
        ("a negative length", b"p\xff\xff\xff\xfe".to_vec()),
        ("an unknown mechanism", b"p\0\0\0\x0cSCRAM\0\0\0\0".to_vec()),
    ];
    for (name, bytes) in cases {
        let mut guest = world.local();
        guest.send(&startup_packet(&[("user", "app")])).await;
        guest.read().await.unwrap();
        guest.send(&bytes).await;
        assert_eq!(guest.refusal().await.0, "08P01", "{name}");
    }
}

#[tokio::test]
async fn too_many_requests_for_encryption_are_the_end() {
    let world = world(SCRAM);
    let mut guest = world.local();
    for _ in 0..3 {
        guest.send(&request(startup::ssl_request)).await;
        let mut answer = [0];
        guest.socket.read_exact(&mut answer).await.unwrap();
    }
    assert_eq!(guest.refusal().await.0, "08P01");
}

#[tokio::test]
async fn a_cancel_request_needs_no_login() {
    let world = world(&["local all all reject"]);
    let mut guest = world.local();
    let mut packet = BytesMut::new();
    startup::cancel_request(&mut packet, 77, b"secret");
    guest.send(&packet).await;
    let Login::Cancel { process_id, key, .. } = guest.login.await.unwrap() else {
        panic!("no cancel")
    };
    assert_eq!((process_id, &key[..]), (77, &b"secret"[..]));
}
