//! `docs/policy.md`: its files load, its commands run, and their output is the output that it
//! shows.
//!
//! A block whose first line is `# PATH` is a file; of a block of `console` the lines with `$` are
//! commands. Each section has a folder of its own. After a change of the code
//! `SIDEGATE_WRITE_DOCS=1 cargo test --test it cookbook` writes the outputs anew.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::cli::{Running, done, run};
use crate::harness::certificate;
use crate::harness::wire::lossy;

/// The part of `sidegate.toml` that the page leaves out.
const AROUND: &str = r#"schema = 1
metrics.listen = "127.0.0.1:0"
admin.socket = "admin.sock"
reload.watch = "off"

[[listener]]
name = "public"
listen = "127.0.0.1:0"
tls = false

"#;

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/policy.md")
}

/// One section's folder, and the agent that runs there, if one of its commands asks for it.
struct Section {
    folder: tempfile::TempDir,
    wants_agent: bool,
    agent: Option<Running>,
}

impl Section {
    /// A folder with the configuration and nothing else.
    fn new(config: &str, text: &str) -> Section {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("policies/lists")).unwrap();
        certify(folder.path());
        fs::write(folder.path().join("sidegate.toml"), format!("{AROUND}{config}")).unwrap();
        let mut commands = text.lines().filter_map(|line| line.strip_prefix("$ sidegate "));
        let wants_agent = commands.any(|command| {
            command.contains("--live")
                || command.starts_with("reload")
                || command.starts_with("diff")
        });
        Section { folder, wants_agent, agent: None }
    }

    /// Puts a file there; the agent starts as soon as there is a policy.
    async fn put(&mut self, path: &str, text: &str) {
        fs::write(self.folder.path().join(path), text).unwrap();
        if self.wants_agent && self.agent.is_none() {
            self.agent = Some(run(self.folder.path()).await);
        }
    }

    /// A block of `console` with the outputs of its commands.
    async fn converse(&self, block: &str) -> String {
        let mut said = String::new();
        for line in block.lines().filter(|line| line.starts_with("$ ")) {
            let words: Vec<_> = line.split(' ').skip(2).collect();
            let output =
                done(&[&words[..], &["--config", "sidegate.toml"]].concat(), self.folder.path())
                    .await;
            let text = [lossy(&output.stdout), lossy(&output.stderr)].concat();
            said.push_str(&format!("{line}\n{}\n", text.trim_end()));
        }
        without_digests(&said)
    }
}

/// Puts the certificates into `folder` that listeners with TLS name.
fn certify(folder: &Path) {
    let pair = certificate::signed(&["ws.example.com"]);
    let certs = folder.join("certs");
    fs::create_dir(&certs).unwrap();
    fs::write(certs.join("clients.pem"), certificate::authority_pem()).unwrap();
    fs::write(certs.join("ws.example.com.pem"), pair.chain).unwrap();
    let key = certs.join("ws.example.com.key");
    fs::write(&key, pair.key).unwrap();
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A digest is of the folder's path too, which is new each time.
fn without_digests(text: &str) -> String {
    let mut parts = text.split("generation ");
    let mut said = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (number, rest) =
            part.split_at(part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len()));
        let rest = rest
            .strip_prefix(" (")
            .and_then(|rest| rest.split_once(')'))
            .map_or(rest, |(_digest, rest)| rest);
        said.push_str(&format!("generation {number}{rest}"));
    }
    said
}

/// The page, its outputs made anew.
async fn made_anew(text: &str) -> String {
    let mut made = String::new();
    let (mut section, mut config) = (None, String::new());
    let parts: Vec<_> = text.split("```").collect();
    for (at, part) in parts.iter().enumerate() {
        let is_block = at % 2 == 1;
        if at > 0 {
            made.push_str("```");
        }
        if !is_block {
            if let Some(head) = part.rfind("\n## ") {
                check(section.take()).await;
                let rest = parts[at..].iter().skip(1).copied();
                let own: String = rest.take_while(|part| !part.contains("\n## ")).collect();
                section = Some(Section::new(&config, &format!("{}{own}", &part[head..])));
            }
            made.push_str(part);
            continue;
        }
        let (kind, block) = part.split_once('\n').unwrap();
        let path = block
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# "))
            .filter(|path| !path.contains(' '));
        match (kind, path, &mut section) {
            ("console", _, Some(section)) => {
                made.push_str(&format!("console\n{}", section.converse(block).await));
            }
            (_, Some("sidegate.toml"), None) => {
                config = block.to_owned();
                made.push_str(part);
            }
            // A section's own, which leaves out what no listener or route needs.
            (_, Some("sidegate.toml"), Some(section)) => {
                let (around, _) = AROUND.split_once("[[listener]]").unwrap();
                section.put("sidegate.toml", &format!("{around}{block}")).await;
                made.push_str(part);
            }
            (_, Some(path), Some(section)) => {
                section.put(path, block).await;
                made.push_str(part);
            }
            _ => made.push_str(part),
        }
    }
    check(section).await;
    made
}

/// Asserts that the files of a section are fine.
async fn check(section: Option<Section>) {
    let Some(section) = section else { return };
    if fs::exists(section.folder.path().join("policies/market-data.toml")).unwrap() {
        let output = done(&["check", "sidegate.toml"], section.folder.path()).await;
        assert!(output.status.success(), "{}", lossy(&output.stderr));
    }
}

#[tokio::test]
async fn policy_page_examples_behave_as_documented() {
    let written = fs::read_to_string(page()).unwrap();
    let made = made_anew(&written).await;
    if std::env::var_os("SIDEGATE_WRITE_DOCS").is_some() {
        return fs::write(page(), &made).unwrap();
    }
    let differing = written.lines().zip(made.lines()).find(|(written, made)| written != made);
    assert!(
        written == made,
        "docs/policy.md: {differing:?}; SIDEGATE_WRITE_DOCS=1 cargo test --test it cookbook"
    );
}
