//! TLS needs TCP.

use pgnet::tls::{ClientTls, Identity, SslMode};
use tokio::net::{TcpListener, TcpStream};

use super::*;

fn certificate() -> ServerTls {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    ServerTls::new(
        Identity {
            chain_pem: chain.as_bytes(),
            key_pem: key.as_bytes(),
        },
        None,
    )
    .unwrap()
}

async fn connect(world: &World) -> (TcpStream, tokio::task::JoinHandle<Login>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, address) = listener.accept().await.unwrap();
    let entrance = Arc::clone(&world.entrance);
    let login = tokio::spawn(async move {
        entrance
            .login(Stream::Tcp(server), Door::ReadWrite, Peer::Tcp(address))
            .await
    });
    (client, login)
}

async fn rest(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes).await; // closed, perhaps with a reset
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn cve_2021_3935_nothing_sent_before_tls_is_believed() {
    let world = world_of(
        config(&["hostnossl all all all reject", "hostssl all all all trust"]),
        Some(certificate()),
    );
    let (mut client, login) = connect(&world).await;
    let ahead = [request(startup::ssl_request), startup_packet(&[("user", "app")])].concat();
    client.write_all(&ahead).await.unwrap();
    let said = rest(&mut client).await;
    assert!(!said.contains('R'), "no authentication was offered: {said:?}");
    assert!(matches!(login.await.unwrap(), Login::Closed));
}

#[tokio::test]
async fn where_tls_is_required_others_are_turned_away_unless_local() {
    let mut config = config(&["local all all trust", "host all all all trust"]);
    config.tls.mode = ClientTlsMode::Require;
    let world = world_of(config, Some(certificate()));
    let (mut client, login) = connect(&world).await;
    client
        .write_all(&startup_packet(&[("user", "app")]))
        .await
        .unwrap();
    assert!(rest(&mut client).await.contains("28000"));
    assert!(matches!(login.await.unwrap(), Login::Closed));
    assert!(world.login("app", "shop", "").await.is_ok());
}

#[tokio::test]
async fn a_login_through_tls_binds_to_the_channel_also_without_asking_first() {
    let world = world_of(
        config(&["hostssl all all all scram-sha-256"]),
        Some(certificate()),
    );
    for direct in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let entrance = Arc::clone(&world.entrance);
        let login = tokio::spawn(async move {
            let (server, peer) = listener.accept().await.unwrap();
            entrance
                .login(Stream::Tcp(server), Door::ReadWrite, Peer::Tcp(peer))
                .await
        });
        let target = pgnet::client::Target::new("127.0.0.1", address.port());
        let mut client = pgnet::client::Config::new(target, "app", "shop");
        client.credential = Credential::Password("right".into());
        client.channel_binding = pgnet::client::ChannelBinding::Require;
        let tls = ClientTls::new(SslMode::Require, None, None).unwrap();
        client.tls = if direct { tls.direct() } else { tls };
        let session = tokio::spawn(async move { pgnet::client::establish(&client).await });
        let Login::Client(client) = login.await.unwrap() else {
            panic!("not let in, direct: {direct}")
        };
        assert!(client.stream.is_tls());
        session.abort(); // it waits for ReadyForQuery, which is not the entrance's business
    }
}

#[tokio::test]
async fn tls_that_is_no_tls_is_closed() {
    let world = world_of(config(SCRAM), Some(certificate()));
    let (mut client, login) = connect(&world).await;
    client.write_all(b"\x16\x03\x01\x00\x05hello").await.unwrap();
    client.shutdown().await.unwrap();
    assert!(!rest(&mut client).await.contains('R'));
    assert!(matches!(login.await.unwrap(), Login::Closed));
}
