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

/// An authority, and certificates of it for a server and for the client `app`.
fn authority() -> (String, [(String, String); 2]) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let made = ["localhost", "app"].map(|name| {
        let mut own = CertificateParams::new(vec![name.to_owned()]).unwrap();
        own.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        (
            own.signed_by(&key, &authority).unwrap().pem(),
            key.serialize_pem(),
        )
    });
    (authority.pem(), made)
}

#[tokio::test]
async fn a_certificate_lets_in_the_user_it_names_and_nobody_else() {
    let (ca, [own, of_app]) = authority();
    fn identity(pair: &(String, String)) -> Identity<'_> {
        Identity {
            chain_pem: pair.0.as_bytes(),
            key_pem: pair.1.as_bytes(),
        }
    }
    let server = ServerTls::new(identity(&own), Some(ca.as_bytes())).unwrap();
    let hba = [
        "hostssl shop all all cert",
        "hostssl full all all trust clientcert=verify-full",
        "hostssl chain all all trust clientcert=verify-ca",
    ];
    let world = world_of(config(&hba), Some(server));
    let failed = "certificate authentication failed for user";
    let missing = "connection requires a valid client certificate";
    let cases = [
        ("shop", "app", true, None),
        ("shop", "other", true, Some(failed)),
        ("shop", "app", false, Some(missing)),
        ("full", "app", true, None),
        ("full", "other", true, Some(failed)),
        ("chain", "other", true, None),
        ("chain", "other", false, Some(missing)),
    ];
    for (database, user, shown, refused) in cases {
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
        let mut client = pgnet::client::Config::new(target, user, database);
        client.tls = ClientTls::new(SslMode::Require, None, shown.then(|| identity(&of_app))).unwrap();
        let session = tokio::spawn(async move { pgnet::client::establish(&client).await });
        let ended = login.await.unwrap();
        let case = format!("{database} {user} {shown}");
        match refused {
            None => {
                assert!(matches!(ended, Login::Client(_)), "{case}");
                session.abort(); // it waits for ReadyForQuery
            }
            Some(text) => {
                assert!(matches!(ended, Login::Closed), "{case}");
                let error = session.await.unwrap().err().unwrap();
                assert_eq!(error.sqlstate().as_str(), "28000", "{case}");
                assert!(error.to_string().contains(text), "{case}: {error}");
            }
        }
    }
}
