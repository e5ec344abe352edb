//! Real folders, changed as editors, the kubelet and accidents change them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::control::files::Settings;
use crate::mesh::Snapshot;
use crate::policy::authorization::TrustDomains;

/// A source that is followed, and what it leads to.
struct Followed {
    store: Arc<mesh::Store>,
    task: JoinHandle<()>,
}

impl Followed {
    async fn start(folders: &[&Path]) -> Self {
        let settings = Settings {
            node: "node-1".into(),
            cluster_domain: "cluster.local".into(),
            trust_domains: TrustDomains::default(),
        };
        let folders = folders.iter().map(|one| one.to_path_buf()).collect();
        let store = Arc::new(mesh::Store::new());
        let (ready, is_ready) = oneshot::channel();
        let source = Source::new(folders, settings);
        let task = tokio::spawn(follow(source, Arc::clone(&store), ready));
        is_ready.await.expect("the first load");
        Self { store, task }
    }

    /// Waits until the snapshot's services are these.
    async fn services(&self, expected: &str) {
        let mut snapshots = self.store.subscribe();
        let names = |snapshot: &Snapshot| {
            let mut names: Vec<&str> = snapshot.services.values().map(|one| &*one.name).collect();
            names.sort_unstable();
            names.join(" ")
        };
        let reached = timeout(
            Duration::from_secs(5),
            snapshots.wait_for(|snapshot| names(snapshot) == expected),
        );
        if reached.await.is_err() {
            let now = names(&self.store.load());
            panic!(
                "services are [{now}] and not [{expected}]; {:?}",
                self.store.problems()
            );
        }
    }

    /// Waits until a problem holds this text.
    async fn problem(&self, text: &str) {
        let mut problems = self.store.subscribe_problems();
        let holds = problems.wait_for(|all| all.iter().any(|one| one.to_string().contains(text)));
        if timeout(Duration::from_secs(5), holds).await.is_err() {
            panic!("no problem says {text:?}: {}", self.problems());
        }
    }

    fn problems(&self) -> String {
        let problems = self.store.problems();
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn service(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{ports: [{{port: 80}}]}}}}\n"
    )
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
}

/// As editors and `kubectl cp` do it.
fn replace(path: &Path, text: &str) {
    let temporary = path.with_extension("tmp");
    write(&temporary, text);
    fs::rename(temporary, path).expect("renamed");
}

#[tokio::test]
async fn changes_come_into_force() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    write(&at("a.yaml"), &service("a"));
    let followed = Followed::start(&[folder.path()]).await;
    followed.services("a").await;

    write(&at("b.yml"), &service("b"));
    followed.services("a b").await;
    replace(
        &at("b.yml"),
        &format!("{}---\n{}", service("b"), service("c")),
    );
    followed.services("a b c").await;
    write(
        &at("d.json"),
        r#"{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "d"}}]}"#,
    );
    followed.services("a b c d").await;
    fs::remove_file(at("b.yml")).expect("removed");
    followed.services("a d").await;
    fs::rename(at("a.yaml"), at(".a.yaml")).expect("hidden");
    followed.services("d").await;
    write(&at("notes.txt"), &service("x"));
    fs::create_dir(at("inner.yaml")).expect("a folder");
    write(&at("inner.yaml").join("y.yaml"), &service("y"));
    write(&at("e.yaml"), &service("e"));
    followed.services("d e").await;
    assert_eq!(followed.problems(), "");
}

#[tokio::test]
async fn a_configmap_is_swapped_as_a_whole() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    for (version, name) in [("..1", "old"), ("..2", "new")] {
        fs::create_dir(at(version)).expect("a folder");
        write(&at(version).join("mesh.yaml"), &service(name));
    }
    symlink("..1", at("..data")).expect("a link");
    symlink("..data/mesh.yaml", at("mesh.yaml")).expect("a link");
    let followed = Followed::start(&[folder.path()]).await;
    followed.services("old").await;
    symlink("..2", at("..data_tmp")).expect("a link");
    fs::rename(at("..data_tmp"), at("..data")).expect("swapped");
    followed.services("new").await;
    // The kubelet removes the old version afterwards.
    fs::remove_dir_all(at("..1")).expect("removed");
    write(&at("more.yaml"), &service("more"));
    followed.services("more new").await;
}

#[tokio::test]
async fn a_link_is_followed_to_where_it_leads() {
    let (folder, elsewhere) = (folder(), folder());
    let target = elsewhere.path().join("real.yaml");
    write(&target, &service("a"));
    symlink(&target, folder.path().join("a.yaml")).expect("a link");
    let followed = Followed::start(&[folder.path()]).await;
    followed.services("a").await;
    write(&target, &service("b"));
    followed.services("b").await;
}

#[tokio::test]
async fn a_folder_goes_and_comes_back() {
    let parent = folder();
    let folder = parent.path().join("conf.d");
    let followed = Followed::start(&[&folder]).await;
    assert!(
        followed
            .problems()
            .ends_with("conf.d: no such folder; it is read as soon as it appears")
    );
    for name in ["one", "two"] {
        fs::create_dir(&folder).expect("created");
        write(&folder.join("a.yaml"), &service(name));
        followed.services(name).await;
        write(&folder.join("b.yaml"), &service("more"));
        followed.services(&format!("more {name}")).await;
        assert_eq!(followed.problems(), "");
        // A folder that vanished takes nothing out of force: that is more often a mistake, or a
        // moment in the middle of being replaced, than a wish.
        fs::remove_dir_all(&folder).expect("removed");
        followed
            .problem("what it had stays in force: 2 files")
            .await;
    }
    // Another folder in its place.
    let other = parent.path().join("other");
    fs::create_dir(&other).expect("created");
    write(&other.join("a.yaml"), &service("three"));
    fs::rename(&other, &folder).expect("renamed");
    followed.services("three").await;
    write(&folder.join("a.yaml"), &service("four"));
    followed.services("four").await;
}

#[tokio::test]
async fn a_folder_that_is_a_link_is_switched() {
    let parent = folder();
    let at = |name: &str| parent.path().join(name);
    for name in ["one", "two"] {
        fs::create_dir(at(name)).expect("created");
        write(&at(name).join("a.yaml"), &service(name));
    }
    symlink("one", at("current")).expect("a link");
    let followed = Followed::start(&[&at("current")]).await;
    followed.services("one").await;
    symlink("two", at("next")).expect("a link");
    fs::rename(at("next"), at("current")).expect("switched");
    followed.services("two").await;
    write(&at("two").join("a.yaml"), &service("three"));
    followed.services("three").await;
}

#[tokio::test]
async fn several_folders_count_in_order() {
    let (first, second) = (folder(), folder());
    write(&first.path().join("z.yaml"), &service("a"));
    write(
        &second.path().join("a.yaml"),
        &format!("{}---\n{}", service("a"), service("b")),
    );
    let followed = Followed::start(&[first.path(), second.path()]).await;
    followed.services("a b").await;
    assert_eq!(
        followed.problems(),
        format!(
            "{}/a.yaml:1: Service default/a: given twice: the one in {}/z.yaml:1 counts, this one has no effect",
            second.path().display(),
            first.path().display()
        )
    );
}

/// Whatever a file holds costs a message that names it, and nothing else.
#[tokio::test]
async fn bad_files_cost_a_message() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    write(&at("a.yaml"), &service("a"));
    write(&at("b.yaml"), &service("b"));
    let followed = Followed::start(&[folder.path()]).await;
    followed.services("a b").await;

    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..20 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    for (name, content, message) in [
        (
            "half-written",
            service("b").into_bytes()[..40].to_vec(),
            "not valid YAML",
        ),
        ("empty", Vec::new(), "the file is empty"),
        (
            "not UTF-8",
            b"a: 1\nb: \xff\xfe".to_vec(),
            "b.yaml:2: not text in UTF-8",
        ),
        (
            "binary",
            vec![0x7f, b'E', b'L', b'F', 0, 0],
            "control character",
        ),
        (
            "an alias bomb",
            bomb.into_bytes(),
            "its aliases stand for more than",
        ),
        ("too deep", "[".repeat(100).into_bytes(), "levels deep"),
    ] {
        fs::write(at("b.yaml"), &content).expect("written");
        followed.problem(message).await;
        assert!(
            followed
                .problems()
                .contains("(what it had stays in force: 1 objects)"),
            "{name}"
        );
        followed.services("a b").await;
    }

    // Larger than is read; sparse, so that the test costs no disk.
    let large = fs::File::create(at("b.yaml")).expect("created");
    large.set_len(50 << 20).expect("sparse");
    followed
        .problem("50 MiB is too large; at most 16 MiB are read: split the file")
        .await;

    fs::remove_file(at("b.yaml")).expect("removed");
    nix::unistd::mkfifo(&at("b.yaml"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    followed.problem("not a regular file").await;
    fs::remove_file(at("b.yaml")).expect("removed");
    symlink("nowhere", at("b.yaml")).expect("a link");
    followed.problem("can't be read: No such file").await;
    followed.services("a b").await;

    replace(&at("b.yaml"), &service("c"));
    followed.services("a c").await;
    assert_eq!(followed.problems(), "");
}

#[tokio::test]
async fn an_invalid_object_keeps_its_last_good_version() {
    let folder = folder();
    let file = folder.path().join("a.yaml");
    let rules = |regex: &str| {
        format!(
            "{}---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\nspec:\n  hosts: [a]\n  http:\n  - name: first\n    match: [{{uri: {{exact: /}}}}, {{uri: {{regex: '{regex}'}}}}]\n    route: [{{destination: {{host: a}}}}]\n",
            service("a")
        )
    };
    let rule = |followed: &Followed| {
        let snapshot = followed.store.load();
        let service = &snapshot.services["a.default.svc.cluster.local"];
        service.ports[0].routes.rules()[0].name.to_string()
    };
    write(&file, &rules("/a.*"));
    let followed = Followed::start(&[folder.path()]).await;
    assert_eq!(
        (followed.problems().as_str(), rule(&followed).as_str()),
        ("", "first")
    );

    replace(&file, &rules("/a("));
    followed
        .problem("its last good version stays in force")
        .await;
    let problems = followed.problems();
    assert!(
        problems.contains(
            "a.yaml:10: VirtualService default/a: spec.http[0].match[1].uri.regex: not a valid RE2 regular expression"
        ),
        "{problems}"
    );
    assert_eq!(rule(&followed), "first");

    // A fresh start has no last good version: the service keeps its plain rule.
    let fresh = Followed::start(&[folder.path()]).await;
    assert!(fresh.problems().contains("(it is not in force)"));
    assert_eq!(rule(&fresh), "default");

    // The object goes: so does its last good version.
    replace(&file, &service("a"));
    let mut snapshots = followed.store.subscribe();
    let plain = |snapshot: &Arc<Snapshot>| {
        let service = &snapshot.services["a.default.svc.cluster.local"];
        service.ports[0].routes.source.is_none()
    };
    timeout(Duration::from_secs(5), snapshots.wait_for(plain))
        .await
        .expect("in time")
        .expect("open");
    assert_eq!(followed.problems(), "");
}

/// Valid YAML, and nothing that anyone means: what is said stays short, and time grows with the
/// size and not with its square.
#[tokio::test]
async fn enormous_objects_are_bounded() {
    let lines = |line: fn(u32) -> String| (0..600_000).map(line).collect::<String>();
    let rules =
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n";
    for (name, text, message) in [
        (
            "documents that are no objects",
            "---\na: 1\n".repeat(600_000),
            "more than 100000 objects: split the file",
        ),
        (
            "unknown fields",
            format!("{rules}{}", lines(|n| format!("  k{n}: 1\n"))),
            "and 599901 more of the kind",
        ),
        (
            "hosts",
            format!(
                "{rules}  http: [{{route: [{{destination: {{host: a}}}}]}}]\n  hosts:\n{}",
                lines(|n| format!("  - h{n}.com\n"))
            ),
            "spec.hosts[99]: no Service has the name h99.com",
        ),
    ] {
        let folder = folder();
        write(&folder.path().join("a.yaml"), &text);
        let followed = Followed::start(&[folder.path()]).await;
        let problems = followed.problems();
        assert!(problems.contains(message), "{name}: {problems}");
        assert!(problems.lines().count() <= 101, "{name}: {problems}");
    }
}
