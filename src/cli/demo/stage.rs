//! The parts of the demo: a folder with config, state and log, the two versions, the proxy, and the
//! users.
//!
//! Invariants: the proxy is the one that `grayling run` starts, from a real file. The weight
//! changes only by saving that file, as an editor does (write a copy, rename it over). The folder
//! is kept.

use super::origin::DemoService;
use super::users::Users;
use crate::app::{Proxy, StartError};
use crate::cli::client::{AdminArgs, AdminClient};
use crate::telemetry::log::Log;
use crate::telemetry::random::Random;
use anyhow::Context;
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const RELEASE: &str = "billing";
/// The latency ceiling of the demo's config: the service answers in 10 ms, and 1 in 200 responses
/// takes up to 100 ms.
pub const LATENCY_P99_MAX: Duration = Duration::from_millis(200);
/// Another process may take a free port before the proxy does.
const STARTS_MAX: usize = 5;

pub struct DemoSetup {
    pub folder: PathBuf,
    pub stable: DemoService,
    pub new: DemoService,
    pub proxy: Proxy,
    pub users: Users,
    pub http: ListenAddress,
    pub admin: ListenAddress,
    pub client: AdminClient,
}

/// A listening address.
#[derive(Clone, Copy, Debug)]
pub struct ListenAddress {
    pub address: SocketAddr,
    /// The wanted address, if it was taken.
    pub instead_of: Option<SocketAddr>,
}

impl DemoSetup {
    pub fn set(http: SocketAddr, admin: SocketAddr, weight: &str) -> anyhow::Result<DemoSetup> {
        let folder = folder().context("cannot make a temporary folder")?;
        let (stable, new) = (DemoService::start("v1"), DemoService::start("v2"));
        let (stable, new) =
            (stable.context("cannot start version v1")?, new.context("cannot start version v2")?);
        let log_file = File::create(folder.join("grayling.log"))
            .with_context(|| format!("cannot write in {}", folder.display()))?;
        let log = Log::to(log_file).context("cannot start the log's thread")?;
        let mut starts = 0;
        let (proxy, http, admin) = loop {
            let (http, admin) = places(http, admin)?;
            let text = config(http.address, admin.address, stable.address, new.address, weight);
            save(&folder, &text)?;
            starts += 1;
            match Proxy::start(&config_file(&folder), log.clone()) {
                Ok(proxy) => break (proxy, http, admin),
                Err(StartError::Listen { .. }) if starts < STARTS_MAX => {}
                Err(fault) => return Err(fault).context("the demo's proxy did not start"),
            }
        };
        let url = format!("http://{}", admin.address);
        let client = AdminClient::new(&AdminArgs { admin: Some(url), token_file: None })?;
        let users = Users::start(http.address, LATENCY_P99_MAX).context("cannot start the users")?;
        Ok(DemoSetup { folder, stable, new, proxy, users, http, admin, client })
    }

    /// Ends the users first, so that their requests are answered; then the proxy, as TERM would,
    /// and then the versions.
    pub fn strike(self) {
        drop(self.users);
        self.proxy.finish();
    }

    pub fn config_file(&self) -> PathBuf {
        config_file(&self.folder)
    }

    /// Changes the weight in the file, as an editor would.
    pub fn edit_weight(&self, weight: &str) -> anyhow::Result<()> {
        let text = self.read()?;
        let edited = text.lines().map(|line| match line.starts_with("weight = ") {
            true => format!("weight = \"{weight}\"\n"),
            false => format!("{line}\n"),
        });
        save(&self.folder, &edited.collect::<String>())
    }

    /// Saves the file once more, with a remark at its end.
    pub fn save_again(&self) -> anyhow::Result<()> {
        save(&self.folder, &format!("{}\n# Saved again after the rollback: nothing changed.\n", self.read()?))
    }

    fn read(&self) -> anyhow::Result<String> {
        let file = self.config_file();
        std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    }
}

fn config_file(folder: &Path) -> PathBuf {
    folder.join("grayling.toml")
}

fn save(folder: &Path, text: &str) -> anyhow::Result<()> {
    let beside = folder.join("grayling.toml.new");
    std::fs::write(&beside, text)
        .and_then(|()| std::fs::rename(&beside, config_file(folder)))
        .with_context(|| format!("cannot write {}", config_file(folder).display()))
}

/// A new folder that only this user can read.
fn folder() -> std::io::Result<PathBuf> {
    loop {
        let random = Random::default().number() & 0xff_ffff;
        let folder = std::env::temp_dir().join(format!("grayling-demo-{random:06x}"));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(fault) if fault.kind() == ErrorKind::AlreadyExists => {}
            made => return made.map(|()| folder),
        }
    }
}

/// Two free ports, the wanted ones if possible. Both are held until both are known.
fn places(http: SocketAddr, admin: SocketAddr) -> anyhow::Result<(ListenAddress, ListenAddress)> {
    let (http, _held) = place(http, "--http")?;
    let (admin, _held_too) = place(admin, "--admin")?;
    Ok((http, admin))
}

fn place(wanted: SocketAddr, option: &str) -> anyhow::Result<(ListenAddress, TcpListener)> {
    let (listener, instead_of) = match TcpListener::bind(wanted) {
        Err(fault) if fault.kind() == ErrorKind::AddrInUse => {
            (TcpListener::bind((wanted.ip(), 0)), Some(wanted))
        }
        bound => (bound, None),
    };
    let listener = listener.with_context(|| format!("cannot listen on {wanted} ({option})"))?;
    Ok((ListenAddress { address: listener.local_addr()?, instead_of }, listener))
}

fn config(http: SocketAddr, admin: SocketAddr, stable: SocketAddr, new: SocketAddr, weight: &str) -> String {
    let ceiling_ms = LATENCY_P99_MAX.as_millis();
    format!(
        r#"# Written by `grayling demo`; an ordinary config. Edit, save: it is in force.

[listen]
http = "{http}"        # for users
admin = "{admin}"       # for metrics and commands
workers = 1
expose_arm = true              # answers say which version they are of: the demo's users look at it

[admin]
local_changes = true           # every process of this machine may roll back and resume; elsewhere: a token_file

[identity]
from = [{{ header = "x-user-id" }}]

[upstream.v1]
servers = ["http://{stable}"]

[upstream.v2]
servers = ["http://{new}"]

[release.{RELEASE}]
stable = "v1"
new = "v2"
attempt = 1                    # raise it to let the next build in after a rollback
# The share of users in new.
weight = "{weight}"
warm_up = "2s"                 # the default is 60s; the demo's clock is fast

[release.{RELEASE}.watchdog]
errors_max = "5%"              # the default is 2%
latency_p99_max = "{ceiling_ms}ms"      # the default is 2s; this service answers in 10 ms, its slowest 1 in 200 in 100 ms

[[route]]
path = "/"
release = "{RELEASE}"

[limits]
drain = "2s"                   # the demo is not to wait long at its end

[state]
directory = "state"            # remembers a rollback over restarts
when_empty = "start"           # this directory is new; the default holds releases at 0% when earlier rollbacks may be forgotten
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_config_has_no_fault_and_no_warning() {
        let folder = folder().unwrap();
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        save(&folder, &config(address(1), address(2), address(3), address(4), "1%")).unwrap();
        let checked = crate::config::load(&config_file(&folder)).result;
        let warnings = checked.map(|c| c.warnings.lines()).map_err(|r| r.lines());
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(warnings, Ok(vec![]));
    }

    #[test]
    fn a_taken_port_is_replaced_by_a_free_one() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let wanted = taken.local_addr().unwrap();
        let (place, _held) = place(wanted, "--http").unwrap();
        assert_eq!(place.instead_of, Some(wanted));
        assert_ne!(place.address, wanted);
    }
}
