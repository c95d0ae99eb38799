//! The cluster: one that `KUBECONFIG` names, else the local one of `tests/kubernetes`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::stage::record;
use crate::programs::program;
use crate::tools::{Output, run_to_end};
use crate::wait::wait_for;
use crate::world::{Process, World, free_port, postgres_binary};

/// How long one call of kubectl or helm may take, waiting included.
const CALL: Duration = Duration::from_secs(240);

/// A cluster, its programs and its images.
#[derive(Debug)]
pub struct Kube {
    world: Arc<World>,
    programs: PathBuf,
    kubeconfig: PathBuf,
    local: Option<Process>,
    /// `kubectl proxy`: what is asked again and again is asked through it, not by a process each time.
    door: u16,
    _proxy: Process,
    /// What takes back the faults that are there now: machine, action.
    faults: Mutex<BTreeSet<(String, &'static str)>>,
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("kubernetes")
        .join(name)
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The folder with helm, kubectl and the rest: built into a cache by the first who asks.
fn programs() -> PathBuf {
    let built = run_to_end(&mut Command::new(script("build.sh")), Duration::from_secs(3600));
    let built = built.expect_ok("tests/kubernetes/build.sh");
    PathBuf::from(built.out.trim()).join("bin")
}

/// helm, for tests without a cluster.
pub fn helm_program() -> PathBuf {
    programs().join("helm")
}

impl Kube {
    /// Starts the local cluster with our images, or takes the one of `KUBECONFIG`, into which `E2E_LOAD` (a shell
    /// command that is given an archive, for instance `kind load image-archive`) loads them.
    pub fn start(world: &Arc<World>) -> Self {
        let programs = programs();
        let archives = build_images(world);
        if let Some(kubeconfig) = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) {
            if let Ok(load) = std::env::var("E2E_LOAD") {
                for archive in &archives {
                    let command = format!("{load} {}", archive.display());
                    run_to_end(Command::new("sh").args(["-c", &command]), CALL).expect_ok(&command);
                }
            }
            return Self::at(world, programs, PathBuf::from(kubeconfig), None);
        }
        let check = run_to_end(Command::new(script("cluster.sh")).arg("check"), CALL);
        assert!(
            check.ok,
            "{}\nA cluster of your own serves too (KUBECONFIG, E2E_LOAD); SKIP_E2E=1 leaves these tests out.",
            check.err
        );
        let folder = world.path().join("cluster");
        fs::create_dir_all(folder.join("images")).expect("folder");
        for archive in &archives {
            let place = folder.join("images").join(archive.file_name().expect("a name"));
            fs::rename(archive, place).expect("rename");
        }
        let mut command = Command::new(script("cluster.sh"));
        let started = Instant::now();
        let mut process = world.spawn("kubernetes", command.arg("run").arg(&folder).arg("3"));
        wait_for("the cluster to be ready", Duration::from_secs(240), || {
            if let Ok(why) = fs::read_to_string(folder.join("failed")) {
                panic!(
                    "the cluster did not start: {why}\n{}\n{}",
                    process.log_tail(20),
                    logs(&folder)
                );
            }
            if let Some(status) = process.exited() {
                panic!("the cluster ended ({status}):\n{}", process.log_tail(40));
            }
            let ready = folder.join("ready").exists();
            ready.then_some(()).ok_or_else(|| process.log_tail(5))
        });
        record(
            "cluster of three nodes from nothing to ready (programs in the cache)",
            started.elapsed().as_secs_f64(),
            "s",
        );
        Self::at(world, programs, folder.join("kubeconfig"), Some(process))
    }

    fn at(world: &Arc<World>, programs: PathBuf, kubeconfig: PathBuf, local: Option<Process>) -> Self {
        let door = free_port();
        let mut command = Command::new(programs.join("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .args(["proxy", "--port", &door.to_string()]);
        let kube = Self {
            world: Arc::clone(world),
            programs,
            kubeconfig,
            local,
            door,
            _proxy: world.spawn("kubectl-proxy", &mut command),
            faults: Mutex::default(),
        };
        wait_for("kubectl proxy", Duration::from_secs(60), || {
            kube.ask("/version").map(drop).ok_or("no answer yet".to_owned())
        });
        kube
    }

    /// What the API answers to a GET, if that is 200.
    fn ask(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.door)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let good = head.split(' ').nth(1) == Some("200");
        serde_json::from_str(body).ok().filter(|_| good)
    }

    /// The temporary folder.
    pub fn world(&self) -> &World {
        &self.world
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("PATH", format!("{}:{path}", self.programs.display()))
            .env("HELM_CACHE_HOME", self.world.path().join("helm"))
            .env("HELM_CONFIG_HOME", self.world.path().join("helm"));
        command
    }

    /// kubectl, whatever it says.
    pub fn try_kubectl(&self, args: &[&str]) -> Output {
        run_to_end(self.command("kubectl").args(args), CALL)
    }

    /// kubectl, which must succeed; what it printed.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let what = format!("kubectl {}", args.join(" "));
        self.try_kubectl(args).expect_ok(&what).out
    }

    /// helm, whatever it says.
    pub fn try_helm(&self, args: &[&str]) -> Output {
        run_to_end(self.command("helm").args(args), CALL)
    }

    /// helm, which must succeed; what it printed.
    pub fn helm(&self, args: &[&str]) -> String {
        let what = format!("helm {}", args.join(" "));
        self.try_helm(args).expect_ok(&what).out
    }

    /// Our own command, which is the plugin `kubectl pgpool` too.
    pub fn try_plugin(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program("pgstmtpool"));
        command.env("KUBECONFIG", &self.kubeconfig).args(args);
        run_to_end(&mut command, CALL)
    }

    /// Applies YAML, whatever comes of it.
    pub fn try_apply(&self, namespace: &str, yaml: &str) -> Output {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let file = self.world.write(&format!("apply-{number}.yaml"), yaml);
        self.try_kubectl(&["-n", namespace, "apply", "-f", file.to_str().expect("UTF-8")])
    }

    /// Applies YAML.
    pub fn apply(&self, namespace: &str, yaml: &str) {
        self.try_apply(namespace, yaml)
            .expect_ok(&format!("kubectl apply\n{yaml}"));
    }

    /// `kubectl get ... -o json`; `Null` where there is no such object.
    pub fn get(&self, namespace: &str, what: &[&str]) -> Value {
        let (pods, pools) = ("api/v1", "apis/pgstmtpool.io/v1alpha1");
        let path = match what {
            ["pod", name] => Some(format!("/{pods}/namespaces/{namespace}/pods/{name}")),
            ["pods", "-l", labels] => {
                let labels = labels.replace('=', "%3D").replace(',', "%2C").replace('/', "%2F");
                Some(format!(
                    "/{pods}/namespaces/{namespace}/pods?labelSelector={labels}"
                ))
            }
            ["pgpool", name] => Some(format!("/{pools}/namespaces/{namespace}/pgpools/{name}")),
            _ => None,
        };
        if let Some(path) = path {
            return self.ask(&path).unwrap_or(Value::Null);
        }
        let mut args = vec!["-n", namespace, "get", "-o", "json", "--ignore-not-found"];
        args.extend(what);
        let answer = self.try_kubectl(&args);
        serde_json::from_str(&answer.out).unwrap_or(Value::Null)
    }

    /// A chart of ours.
    pub fn chart(name: &str) -> String {
        let path = repository("charts").join(name);
        path.to_str().expect("UTF-8").to_owned()
    }

    /// Is it the local one, with machines that can be cut off and frozen?
    pub fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// Does something to a machine: `cut`, `join`, `freeze`, `thaw`.
    pub fn node(&self, node: &str, action: &str) {
        let undo: &[&'static str] = match action {
            "cut" => &["join"],
            "freeze" => &["thaw"],
            _ => &[],
        };
        self.fault(node, action, undo);
        self.cluster_script(&["node", node, action])
            .expect_ok(&format!("{action} {node}"));
    }

    /// Takes the API server away (`stop`) or brings it back (`start`).
    pub fn api(&self, action: &str) {
        self.fault("api", action, if action == "stop" { &["start"] } else { &[] });
        self.cluster_script(&["api", action]).expect_ok(action);
    }

    fn fault(&self, machine: &str, action: &str, undo: &[&'static str]) {
        let mut faults = self.faults.lock().expect("faults");
        faults.retain(|(at, with)| at != machine || *with != action);
        faults.extend(undo.iter().map(|undo| (machine.to_owned(), *undo)));
    }

    /// Takes back the faults that a scenario which failed has left.
    pub fn mend(&self) {
        let faults = self.faults.lock().expect("faults").clone();
        for (machine, undo) in faults {
            match machine.as_str() {
                "api" => self.api(undo),
                node => self.node(node, undo),
            }
        }
    }

    /// Runs a command in the network of a machine (`n1`, ... or `control`).
    pub fn on_node(&self, node: &str, command: &[&str]) -> Output {
        let mut args = vec!["enter", node];
        args.extend(command);
        self.cluster_script(&args)
    }

    fn cluster_script(&self, args: &[&str]) -> Output {
        assert!(
            self.is_local(),
            "this needs the local cluster (unset KUBECONFIG): {args:?}"
        );
        let folder = self.world.path().join("cluster");
        let mut command = Command::new(script("cluster.sh"));
        command.arg(args[0]).arg(&folder).args(&args[1..]);
        run_to_end(&mut command, CALL)
    }
}

/// The image of our programs under two names (`e2e` and `next`), and that of PostgreSQL.
fn build_images(world: &World) -> Vec<PathBuf> {
    let archive = repository("images/archive.sh");
    let ours = program("pgstmtpool-proxy");
    let ours = ours.parent().expect("a folder");
    let postgres = postgres_binary("postgres");
    let postgres = postgres.parent().expect("a folder");
    let images = [
        (
            "programs",
            ours,
            "localhost/pgstmtpool:e2e,localhost/pgstmtpool:next",
        ),
        ("postgres", postgres, "localhost/postgres:e2e"),
    ];
    let images = images.map(|(kind, from, names)| {
        let out = world.path().join(format!("{kind}.tar"));
        let mut command = Command::new(&archive);
        command.arg(kind).arg(from).arg(names).arg(&out);
        run_to_end(&mut command, CALL).expect_ok("images/archive.sh");
        out
    });
    images.into()
}

fn logs(folder: &Path) -> String {
    let files = fs::read_dir(folder.join("log")).into_iter().flatten().flatten();
    let mut text = String::new();
    for file in files {
        let log = fs::read_to_string(file.path()).unwrap_or_default();
        text += &format!("--- {}\n{}\n", file.path().display(), crate::world::tail(&log, 5));
    }
    text
}
