use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use crds::status::{MasterStatus, RoutingMode};

use super::*;

/// A folder with a manifest, gone when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("pgstmtpool-cluster-{}-{count}", id()));
        fs::create_dir_all(&path).unwrap();
        let folder = Self(path);
        folder.write("x.yaml", &pool("p", 20));
        folder
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn open(&self) -> FileSource {
        FileSource::open(self.0.join("x.yaml"), None).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

fn pool(name: &str, workers: u32) -> String {
    format!(
        "apiVersion: pgstmtpool.io/v1alpha1\nkind: PgPool\nmetadata: {{name: {name}}}\nspec:\n  master: {{name: a, host: 127.0.0.1}}\n  workers: {{max: {workers}}}\n"
    )
}

fn status(epoch: u64) -> PgPoolStatus {
    let master = MasterStatus {
        name: "a".into(),
        address: "127.0.0.1:5432".into(),
        ..MasterStatus::default()
    };
    PgPoolStatus {
        epoch,
        master: Some(master),
        ..PgPoolStatus::default()
    }
}

async fn write(source: &FileSource, epoch: u64) -> StatusVersion {
    let seen = source.current().await.unwrap().version;
    source.compare_and_swap(&seen, status(epoch)).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn without_a_status_it_is_the_first_start() {
    let folder = Folder::new();
    let snapshot = folder.open().current().await.unwrap();
    assert_eq!(
        (snapshot.status, snapshot.version, snapshot.highest_epoch),
        (None, StatusVersion::ABSENT, 0)
    );
    assert_eq!(snapshot.config.workers.max, 20);
    assert!(snapshot.config.generation > 0);
    assert!(snapshot.faults.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_one_writes_another_reads() {
    let folder = Folder::new();
    let (operator, proxy) = (folder.open(), folder.open());
    let version = write(&operator, 3).await;
    proxy.changed().await;
    let snapshot = proxy.current().await.unwrap();
    assert_eq!(snapshot.status.as_deref(), Some(&status(3)));
    assert_eq!((snapshot.version, snapshot.highest_epoch), (version, 3));
    let text = fs::read_to_string(folder.0.join("x.status.yaml")).unwrap();
    assert!(
        text.contains("kind: PgPool") && text.contains("resourceVersion: \"1\""),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn of_two_writers_who_saw_the_same_one_wins() {
    let folder = Folder::new();
    let (one, two) = (folder.open(), folder.open());
    let seen = one.current().await.unwrap().version;
    one.compare_and_swap(&seen, status(1)).await.unwrap();
    let lost = two.compare_and_swap(&seen, status(2)).await;
    let Err(CasError::Conflict { current }) = lost else {
        panic!("{lost:?}")
    };
    assert_eq!(two.current().await.unwrap().version, current);
}

#[tokio::test]
async fn no_write_is_lost_when_many_write_at_once() {
    let folder = Folder::new();
    let writers = (0..4).map(|_| {
        let source = folder.open();
        tokio::spawn(async move {
            for _ in 0..10 {
                loop {
                    let snapshot = source.current().await.unwrap();
                    let epoch = snapshot.status.as_ref().map_or(0, |status| status.epoch) + 1;
                    match source.compare_and_swap(&snapshot.version, status(epoch)).await {
                        Ok(_) => break,
                        Err(CasError::Conflict { .. } | CasError::EpochBackwards { .. }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(folder.open().current().await.unwrap().highest_epoch, 40);
}

#[tokio::test(start_paused = true)]
async fn a_smaller_epoch_is_neither_believed_nor_written() {
    let folder = Folder::new();
    let (operator, proxy) = (folder.open(), folder.open());
    write(&operator, 1).await;
    let old = fs::read(operator.status_path()).unwrap();
    write(&operator, 5).await;
    assert_eq!(proxy.current().await.unwrap().highest_epoch, 5);
    let seen = operator.current().await.unwrap().version;
    let back = operator.compare_and_swap(&seen, status(4)).await;
    assert!(
        matches!(back, Err(CasError::EpochBackwards { new: 4, seen: 5 })),
        "{back:?}"
    );

    // Somebody puts a backup back.
    fs::write(operator.status_path(), old).unwrap();
    proxy.changed().await;
    let snapshot = proxy.current().await.unwrap();
    assert_eq!(snapshot.status.as_deref(), Some(&status(5)));
    assert!(
        snapshot.faults[0].message.contains("epoch 1 is smaller than 5"),
        "{:?}",
        snapshot.faults
    );
    // The operator writes over it.
    write(&operator, 6).await;
    let snapshot = proxy.current().await.unwrap();
    assert_eq!((snapshot.highest_epoch, snapshot.faults.len()), (6, 0));
}

#[tokio::test(start_paused = true)]
async fn a_status_that_is_gone_goes_on_and_can_be_written_anew() {
    let folder = Folder::new();
    let source = folder.open();
    write(&source, 5).await;
    source.current().await.unwrap();
    fs::remove_file(source.status_path()).unwrap();
    let snapshot = source.current().await.unwrap();
    assert_eq!(snapshot.status.as_deref(), Some(&status(5)));
    assert_eq!(snapshot.version, StatusVersion::ABSENT);
    assert!(source.last_faults()[0].message.starts_with("is gone"));
    write(&source, 5).await;
    assert!(source.current().await.unwrap().faults.is_empty());
}

#[tokio::test(start_paused = true)]
async fn epochs_that_proxies_acknowledged_are_remembered_over_a_lost_status() {
    let folder = Folder::new();
    let source = folder.open();
    source
        .acknowledge(ProxyReport {
            id: "p1".into(),
            acked_epoch: 7,
            ..ProxyReport::default()
        })
        .await
        .unwrap();
    let fresh = folder.open();
    assert_eq!(fresh.current().await.unwrap().highest_epoch, 7);
    let back = fresh.compare_and_swap(&StatusVersion::ABSENT, status(1)).await;
    assert!(
        matches!(back, Err(CasError::EpochBackwards { new: 1, seen: 7 })),
        "{back:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_becomes_invalid_leaves_the_last_good_one_in_force() {
    let folder = Folder::new();
    let source = folder.open();
    source.current().await.unwrap();
    folder.write("x.yaml", &pool("p", 0));
    source.changed().await;
    let snapshot = source.current().await.unwrap();
    assert_eq!(snapshot.config.workers.max, 20);
    assert!(
        snapshot.faults[0]
            .to_string()
            .ends_with("x.yaml:6: spec.workers.max: must be 1 to 10000, is 0")
    );
    assert_eq!(*source.last_faults(), *snapshot.faults);
    fs::remove_file(folder.0.join("x.yaml")).unwrap();
    assert_eq!(source.current().await.unwrap().config.workers.max, 20);
    folder.write("x.yaml", &pool("p", 30));
    let snapshot = source.current().await.unwrap();
    assert_eq!((snapshot.config.workers.max, snapshot.faults.len()), (30, 0));
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_the_same_length_in_the_same_instant_is_seen() {
    let folder = Folder::new();
    let source = folder.open();
    let path = folder.0.join("x.yaml");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    folder.write("x.yaml", &pool("p", 21));
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(modified)
        .unwrap();
    source.changed().await;
    assert_eq!(source.current().await.unwrap().config.workers.max, 21);
}

#[tokio::test(start_paused = true)]
async fn another_pool_under_the_old_name_is_refused() {
    let folder = Folder::new();
    write(&folder.open(), 1).await;
    folder.write("x.yaml", &pool("q", 20));
    let error = FileSource::open(folder.0.join("x.yaml"), None).unwrap_err();
    assert!(
        error.into_faults()[0]
            .message
            .contains("is the status of pool \"p\", not of \"q\"")
    );
}

#[tokio::test(start_paused = true)]
async fn each_of_several_pools_has_files_of_its_own_and_the_first_keeps_its_old_ones() {
    let folder = Folder::new();
    let alone = folder.open();
    assert!(alone.status_path().ends_with("x.status.yaml"));
    write(&alone, 1).await;
    folder.write("x.yaml", &format!("{}---\n{}", pool("p", 20), pool("q", 20)));
    let open = |pool| FileSource::open(folder.0.join("x.yaml"), Some(pool)).unwrap();
    assert!(open("p").status_path().ends_with("x.status.yaml"));
    assert!(open("q").status_path().ends_with("x.q.status.yaml"));
    assert!(open("q").proxies_path().ends_with("x.q.proxies"));
    assert_eq!(alone.current().await.unwrap().highest_epoch, 1);
    let error = FileSource::open(folder.0.join("x.yaml"), None).unwrap_err();
    assert!(
        error.into_faults()[0]
            .message
            .contains("say which with --pool: p, q")
    );
}

#[tokio::test(start_paused = true)]
async fn secrets_in_a_folder_are_read_and_followed() {
    let folder = Folder::new();
    folder.write("x.secrets/admin/username", "adm\n");
    folder.write("x.secrets/admin/password", "old\n");
    folder.write(
        "x.yaml",
        &format!("{}  adminSecretRef: {{name: admin}}\n", pool("p", 20)),
    );
    let source = folder.open();
    let snapshot = source.current().await.unwrap();
    assert_eq!(snapshot.secrets.get("admin", "password"), Some("old"));
    folder.write("x.secrets/admin/password", "new");
    source.changed().await;
    assert_eq!(
        source.current().await.unwrap().secrets.get("admin", "password"),
        Some("new")
    );
    fs::remove_dir_all(folder.0.join("x.secrets/admin")).unwrap();
    let snapshot = source.current().await.unwrap();
    assert!(
        snapshot.faults[0]
            .message
            .contains("there is no Secret \"admin\""),
        "{:?}",
        snapshot.faults
    );
    assert_eq!(snapshot.secrets.get("admin", "password"), Some("new"));
}

#[test]
fn secrets_that_others_may_read_are_warned_of() {
    let folder = Folder::new();
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}\n";
    folder.write("x.yaml", &format!("{}{secret}", pool("p", 20)));
    folder.write("x.secrets/t/tls.key", "k");
    folder.write("x.secrets/t/tls.crt", "c");
    let path = folder.0.join("x.yaml");
    let warned = || {
        let warnings = check(&path, None).unwrap().warnings;
        warnings
            .into_iter()
            .filter(|warning| warning.ends_with("chmod o-r"))
            .collect::<Vec<_>>()
    };
    assert_eq!(warned(), Vec::<String>::new());
    for name in ["x.yaml", "x.secrets/t/tls.key", "x.secrets/t/tls.crt"] {
        fs::set_permissions(folder.0.join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    for name in ["", "x.secrets", "x.secrets/t"] {
        fs::set_permissions(folder.0.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let warnings = warned();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].contains("x.yaml: holds Secrets") && warnings[1].contains("tls.key"),
        "{warnings:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn reports_of_proxies_are_renewed_read_and_withdrawn() {
    let folder = Folder::new();
    let source = folder.open();
    assert_eq!(source.proxies().await.unwrap(), []);
    let report = ProxyReport {
        id: "p1".into(),
        acked_epoch: 3,
        drained: true,
        ..ProxyReport::default()
    };
    source.acknowledge(report.clone()).await.unwrap();
    let first = source.proxies().await.unwrap();
    source.acknowledge(report.clone()).await.unwrap();
    let second = source.proxies().await.unwrap();
    assert!(second[0].renewal > first[0].renewal);
    assert_eq!(
        ProxyReport {
            renewal: 0,
            ..second[0].clone()
        },
        report
    );

    folder.write("x.proxies/p2.yaml", "id: [");
    folder.write("x.proxies/p3.yaml", "id: p4");
    folder.write("x.proxies/.p5.yaml.tmp", "id: p5");
    assert_eq!(
        source.proxies().await.unwrap().len(),
        1,
        "what is no report is left out"
    );
    source.withdraw("p1").await.unwrap();
    source.withdraw("p1").await.unwrap();
    assert_eq!(source.proxies().await.unwrap(), []);
    for id in ["", "../x", "a/b", ".a", "a b"] {
        let report = ProxyReport {
            id: id.into(),
            ..ProxyReport::default()
        };
        assert!(source.acknowledge(report).await.is_err(), "{id:?}");
        assert!(source.withdraw(id).await.is_err(), "{id:?}");
    }
}

#[test]
fn one_operator_leads_until_it_is_gone() {
    let folder = Folder::new();
    let (one, two) = (folder.open(), folder.open());
    let leadership = one.lead().unwrap().expect("nobody else");
    assert!(two.lead().unwrap().is_none());
    drop(leadership);
    assert!(two.lead().unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_status_that_is_none_is_a_fault_and_the_last_goes_on() {
    let folder = Folder::new();
    let source = folder.open();
    write(&source, 1).await;
    source.current().await.unwrap();
    for text in ["", "a: [", "kind: PgPool", "\u{0}", "a: &a [*a]"] {
        fs::write(source.status_path(), text).unwrap();
        let snapshot = source.current().await.unwrap();
        assert_eq!(
            (snapshot.highest_epoch, snapshot.faults.len()),
            (1, 1),
            "{text:?}: {:?}",
            snapshot.faults
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_mode_and_fields_of_a_newer_version_are_survived_and_kept() {
    let folder = Folder::new();
    let source = folder.open();
    write(&source, 1).await;
    let text = fs::read_to_string(source.status_path()).unwrap();
    let newer = text
        .replace("mode: Open", "mode: Quiet")
        .replace("  epoch: 1", "  epoch: 2\n  colour: red");
    assert!(newer.contains("Quiet") && newer.contains("colour"), "{newer}");
    fs::write(source.status_path(), newer).unwrap();
    let snapshot = source.current().await.unwrap();
    let status = snapshot.status.unwrap();
    assert_eq!((status.epoch, status.routing.mode), (2, RoutingMode::Fenced));
    source
        .compare_and_swap(&snapshot.version, PgPoolStatus::clone(&status))
        .await
        .unwrap();
    assert!(
        fs::read_to_string(source.status_path())
            .unwrap()
            .contains("colour: red")
    );
}

const KILL_TEST: &str = "PGSTMTPOOL_KILL_TEST";

/// Not a test of its own: the process that [`a_killed_writer_never_leaves_half_a_file`] kills.
#[test]
fn writer_that_is_killed() {
    let Ok(path) = env::var(KILL_TEST) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let source = FileSource::open(path, None).unwrap();
        loop {
            let snapshot = source.current().await.unwrap();
            let mut status = status(snapshot.highest_epoch + 1);
            status.replicas_ready = "x".repeat(200_000);
            source.compare_and_swap(&snapshot.version, status).await.unwrap();
        }
    });
}

#[test]
fn a_killed_writer_never_leaves_half_a_file() {
    let folder = Folder::new();
    let mut highest = 0;
    for round in 0..6 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "file::tests::writer_that_is_killed"])
            .env(KILL_TEST, folder.0.join("x.yaml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The reader looks as fast as it can until it has seen the writer at work, then the writer is killed.
        let deadline = Instant::now() + Duration::from_secs(30);
        let goal = highest + 3 + round;
        while highest < goal {
            assert!(Instant::now() < deadline, "the writer does not get on");
            if let Ok(Some(file)) =
                StatusFile::parse(&status::Content::read(&folder.0.join("x.status.yaml")), "p")
            {
                assert!(file.status.epoch >= highest);
                highest = file.status.epoch;
            } else {
                assert_eq!(highest, 0, "half a file was seen");
                thread::yield_now();
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let file = StatusFile::parse(&status::Content::read(&folder.0.join("x.status.yaml")), "p")
            .unwrap()
            .unwrap();
        assert!(file.status.epoch >= highest);
        highest = file.status.epoch;
    }
}
