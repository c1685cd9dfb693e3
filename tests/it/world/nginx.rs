//! A real nginx as an origin: one process, its files in the world's folder, root or not.

use super::{Client, World, eventually, seconds};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub struct Nginx {
    pub address: SocketAddr,
    folder: PathBuf,
    child: Child,
}

impl Nginx {
    /// Answers 200 with `NAME USER-ID` to all requests.
    pub fn start(world: &World, name: &str) -> Nginx {
        Nginx::start_with(world, name, "", "", None)
    }

    /// With these directives in its server.
    pub fn start_limited(world: &World, name: &str, server: &str) -> Nginx {
        Nginx::start_with(world, name, "", server, None)
    }

    /// In front of an application, which answers.
    pub fn start_before(world: &World, name: &str, application: SocketAddr) -> Nginx {
        Nginx::start_with(world, name, "", "", Some(application))
    }

    /// Uses TLS with this pair: HTTP/2 and HTTP/1.1 by ALPN.
    /// Its response also has the protocol of the request.
    pub fn start_tls(world: &World, name: &str, certificate: &Path, key: &Path) -> Nginx {
        Nginx::start_tls_with(world, name, &(certificate.to_owned(), key.to_owned()), "")
    }

    /// The same, with more lines of its server.
    pub fn start_tls_with(
        world: &World,
        name: &str,
        (certificate, key): &(PathBuf, PathBuf),
        lines: &str,
    ) -> Nginx {
        let (certificate, key) = (certificate.display(), key.display());
        let lines = format!("ssl_certificate {certificate}; ssl_certificate_key {key}; {lines}");
        Nginx::start_with(world, name, "ssl http2", &lines, None)
    }

    /// With more lines of its server, in which `PORT` is its port.
    pub fn start_at_more(world: &World, name: &str, lines: &str) -> Nginx {
        Nginx::start_with(world, name, "", lines, None)
    }

    /// In front of an application, by HTTP/2 with prior knowledge. `lines`: of its `server` block.
    pub fn start_http2(world: &World, name: &str, lines: &str, application: SocketAddr) -> Nginx {
        Nginx::start_with(world, name, "http2", lines, Some(application))
    }

    fn start_with(
        world: &World,
        name: &str,
        listen: &str,
        server: &str,
        application: Option<SocketAddr>,
    ) -> Nginx {
        // nginx does not support port 0: a free port is searched, and another if it was taken
        // meanwhile.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
            if let Some(child) = start_on(world, name, address, listen, server, application) {
                return Nginx { address, folder: folder(world, name), child };
            }
        }
        panic!("nginx does not start; its error log is in {}", world.folder().display());
    }

    /// Its `/healthz` answers 503, or 204 again.
    pub fn sick(&self, sick: bool) {
        let file = self.folder.join("sick");
        let done = if sick { std::fs::write(file, "") } else { std::fs::remove_file(file) };
        done.expect("its own folder");
    }

    /// Its log of the requests to `/healthz`.
    pub fn probes(&self) -> String {
        std::fs::read_to_string(self.folder.join("healthz.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder(world: &World, name: &str) -> PathBuf {
    world.path(&format!("nginx-{name}"))
}

fn start_on(
    world: &World,
    name: &str,
    address: SocketAddr,
    listen: &str,
    server: &str,
    application: Option<SocketAddr>,
) -> Option<Child> {
    let folder = folder(world, name);
    std::fs::create_dir_all(&folder).unwrap();
    let (at, file) = (folder.display(), folder.join("nginx.conf"));
    let protocol = if listen.is_empty() { "" } else { " $server_protocol $host $ssl_server_name" };
    let (upstream, answer) = match application {
        None => (String::new(), format!(r#"return 200 "{name} $http_x_user_id{protocol}\n";"#)),
        Some(address) => (
            format!("upstream application {{ server {address}; keepalive 128; }}"),
            r#"proxy_pass http://application; proxy_http_version 1.1; proxy_set_header Connection "";"#
                .to_owned(),
        ),
    };
    let server = server.replace("PORT", &address.port().to_string());
    let config = format!(
        r#"daemon off;
master_process off;
pid {at}/pid;
error_log {at}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {at}/body;
  proxy_temp_path {at}/proxy;
  fastcgi_temp_path {at}/fastcgi;
  uwsgi_temp_path {at}/uwsgi;
  scgi_temp_path {at}/scgi;
  default_type text/plain;
  {upstream}
  server {{
    listen {address} {listen};
    {server}
    location = /healthz {{
      access_log {at}/healthz.log;
      if (-f {at}/sick) {{ return 503; }}
      return 204;
    }}
    location / {{ {answer} }}
  }}
}}
"#
    );
    std::fs::write(&file, config).unwrap();
    let binary =
        ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].into_iter().find(|p| std::path::Path::new(p).exists());
    let mut child = Command::new(binary.unwrap_or("nginx"))
        .arg("-c")
        .arg(&file)
        .arg("-p")
        .arg(&folder)
        .arg("-e")
        .arg(folder.join("error.log"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx is installed (tests/run installs it: package nginx-light)");
    eventually(seconds(10), "nginx answers, or ends", || {
        if child.try_wait().expect("our own child").is_some() {
            return Some(false);
        }
        if !listen.is_empty() {
            return std::net::TcpStream::connect(address).ok().map(|_| true);
        }
        let answer = Client::new(address).get("/", &[]).ok()?;
        Some(answer.text().starts_with(name))
    })
    .then_some(child)
}
