//! The smoke run: good messages, mutated by a seeded generator. `FUZZ_ROUNDS` and `FUZZ_SEED` change how long and where.

use bytes::BytesMut;

use super::*;
use crate::auth::scram::Verifier;
use crate::fields::{ErrorFields, Severity};
use crate::sqlstate::SqlState;
use crate::startup::ProtocolVersion;
use crate::{backend, frontend, startup};

/// splitmix64
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn mutate(&mut self, data: &mut Vec<u8>, other: &[u8]) {
        const WORDS: [&[u8]; 8] = [
            b"\0\0\0\0",
            b"\xff\xff\xff\xff",
            b"\xff\xff\xff\xfe",
            b"\x7f\xff\xff\xff",
            b"\x80\0\0\0",
            b"\xff\xff",
            b",",
            b"\0",
        ];
        let at = self.below(data.len());
        match self.below(8) {
            0 if !data.is_empty() => data[at] ^= 1 << self.below(8),
            1 if !data.is_empty() => data[at] = self.next() as u8,
            2 => data.truncate(at),
            3 => data.insert(at, self.next() as u8),
            4 if !data.is_empty() => drop(data.remove(at)),
            5 => {
                let word = WORDS[self.below(WORDS.len())];
                let end = (at + word.len()).min(data.len());
                data.splice(at..end, word.iter().copied());
            }
            6 => data.extend_from_slice(&other[self.below(other.len())..]),
            _ => {
                let from = self.below(data.len());
                let piece = data[from.min(at)..from.max(at)].to_vec();
                data.splice(at..at, piece);
            }
        }
        data.truncate(4_096);
    }
}

fn frames(encoders: &[fn(&mut BytesMut)]) -> Vec<Vec<u8>> {
    encoders
        .iter()
        .map(|encode| {
            let mut buf = BytesMut::new();
            encode(&mut buf);
            buf.to_vec()
        })
        .collect()
}

fn from_client() -> Vec<Vec<u8>> {
    frames(&[
        |b| frontend::query(b, b"select 1"),
        |b| frontend::parse(b, b"s", b"select $1", &[23, 25]),
        |b| frontend::bind(b, b"p", b"s", &[0, 1], &[Some(b"x"), None], &[1]),
        |b| frontend::describe_statement(b, b"s"),
        |b| frontend::execute(b, b"p", 10),
        |b| frontend::close_portal(b, b"p"),
        frontend::sync,
        |b| frontend::copy_data(b, b"1\t2\n"),
        |b| frontend::copy_fail(b, b"why"),
        |b| frontend::function_call(b, 7, &[1], &[Some(b"x"), None], 0),
        |b| frontend::sasl_initial(b, b"SCRAM-SHA-256", Some(b"n,,n=,r=abc")),
    ])
}

fn from_server() -> Vec<Vec<u8>> {
    frames(&[
        backend::authentication_ok,
        |b| backend::authentication_md5(b, [1, 2, 3, 4]),
        |b| backend::authentication_sasl(b, &[b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"]),
        |b| backend::authentication_sasl_continue(b, b"r=abc"),
        |b| backend::backend_key_data(b, 1, &[1; 32]),
        |b| backend::negotiate_protocol_version(b, ProtocolVersion::V3_0, &[b"_pq_.x"]),
        |b| backend::parameter_status(b, b"a", b"b"),
        |b| backend::ready_for_query(b, b'T'),
        |b| backend::command_complete(b, b"SELECT 1"),
        |b| {
            let field = backend::Field {
                name: b"a",
                table_oid: 1,
                column: 1,
                type_oid: 23,
                type_size: 4,
                type_modifier: -1,
                format: 0,
            };
            backend::row_description(b, &[field, field]);
        },
        |b| backend::data_row(b, &[Some(b"1"), None, Some(b"")]),
        |b| backend::parameter_description(b, &[23, 25]),
        |b| backend::copy_in_response(b, 1, &[1, 1]),
        |b| backend::function_call_response(b, Some(b"x")),
        |b| backend::notification(b, 1, b"c", b"p"),
        |b| {
            ErrorFields::new(Severity::Error, SqlState::SYNTAX_ERROR, "no")
                .with_hint("h")
                .encode_error(b)
        },
    ])
}

/// Type and body, as the targets take them.
fn bodies(frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames
        .into_iter()
        .map(|frame| [&frame[..1], &frame[5..]].concat())
        .collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    match target {
        "frame" => [from_client(), from_server()]
            .map(|frames| frames.concat())
            .to_vec(),
        "startup" => frames(&[
            |b| {
                startup::startup(
                    b,
                    ProtocolVersion::V3_2,
                    [("user", "joe"), ("database", "db"), ("options", "-c a=b")],
                )
            },
            startup::ssl_request,
            |b| startup::cancel_request(b, 7, &[1; 32]),
        ]),
        "frontend" => bodies(from_client()),
        "backend" => bodies(from_server()),
        "fields" => vec![b"SERROR\0VERROR\0C42P01\0Mno\0Dd\0Hh\0P1\0Ff.c\0L1\0Rf\0\0".to_vec()],
        "values" => {
            let mut seeds: Vec<Vec<u8>> = texts(&[
                "{1,NULL,\"a\\\"b\"}",
                "[0:1]={a,b}",
                "[1,\"5\")",
                "(,]",
                "16/B374D848",
                "\\x00ff",
                "it's \\",
            ]);
            seeds.push(vec![
                0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 23, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 7,
            ]);
            seeds.push(vec![
                2, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 5,
            ]);
            seeds
        }
        "sasl" => vec![b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc".to_vec()],
        "scram_server" => texts(&[
            "n,,n=,r=abc\nc=biws,r=abcfyko+d2lbbFgONRv9qkxdawL,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "y,,n=joe,r=abc\nc=eSws,r=abcfyko+d2lbbFgONRv9qkxdawL,p=AAAA",
            "p=tls-server-end-point,,n=,r=abc\nc=cD10bHMtc2VydmVyLWVuZC1wb2ludCws,r=abc,p=AAAA",
        ]),
        "scram_client" => texts(&[
            "r=fyko+d2lbbFgONRv9qkxdawLxyz,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1\nv=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
            "r=fyko+d2lbbFgONRv9qkxdawLxyz,s=AAAA,i=4096\ne=other-error",
        ]),
        "verifier" => vec![Verifier::generate("pencil", b"salt", 1).to_string().into_bytes()],
        "certificate" => [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384]
            .map(|algorithm| {
                let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
                rcgen::CertificateParams::default()
                    .self_signed(&key)
                    .unwrap()
                    .der()
                    .to_vec()
            })
            .to_vec(),
        other => panic!("no seeds for {other}"),
    }
}

#[test]
fn smoke_of_every_fuzz_target() {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(default)
    };
    let (rounds, seed) = (number("FUZZ_ROUNDS", 20_000), number("FUZZ_SEED", 20_260_101));
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        seeds.iter().for_each(|data| target(data));
        let mut random = Random(seed);
        for round in 0..rounds {
            let mut data = seeds[random.below(seeds.len())].clone();
            let other = seeds[random.below(seeds.len())].clone();
            for _ in 0..=random.below(6) {
                random.mutate(&mut data, &other);
            }
            let result = std::panic::catch_unwind(|| target(&data));
            assert!(
                result.is_ok(),
                "target {name}, FUZZ_SEED={seed}, round {round}: {data:?}"
            );
        }
    }
}

/// The fuzzer begins with the same seeds: `FUZZ_SEEDS=pgnet/fuzz/seeds cargo test -p pgnet seeds` writes them anew.
#[test]
fn the_seeds_are_good_input_and_can_be_written() {
    for (name, target) in TARGETS {
        for (i, data) in seeds(name).iter().enumerate() {
            target(data);
            if let Some(folder) = std::env::var_os("FUZZ_SEEDS") {
                // Tests run in the folder of the crate.
                let folder = std::path::Path::new("..").join(folder).join(name);
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(i.to_string()), data).unwrap();
            }
        }
    }
}

#[test]
fn the_seeds_of_the_protocol_targets_are_good_messages() {
    assert!(
        bodies(from_client())
            .iter()
            .all(|data| frontend::decode(data[0], &data[1..]).is_ok())
    );
    assert!(
        bodies(from_server())
            .iter()
            .all(|data| backend::decode(data[0], &data[1..]).is_ok())
    );
    assert!(seeds("startup").iter().all(|data| startup::decode(data).is_ok()));
}
