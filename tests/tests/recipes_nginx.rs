//! nginx in front of the app, over a Unix socket with a mode and a group, as `tests/servers/nginx.md` has it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;
use tests::servers::{self, all_on, stopped};
use tests::{Address, Load, Site, pages, process, sys};

/// An nginx of this test's own: its configuration, its folder, and a socket of this test's to listen on.
struct Nginx(Child);

impl Nginx {
    /// The page's configuration, for a Unix socket `upstream`; nginx answers at the address that is returned.
    fn start(site: &Site, upstream: &str, user: &str) -> (Self, Address) {
        let folder = site.root().join("nginx");
        fs::create_dir(&folder).expect("a folder");
        // Bound here and handed over as nginx hands its sockets to its successor, so that no other test can take the port.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let block = pages::find("tests/servers/nginx.md", "nginx");
        let block = block.replace("/run/shop/shop.sock", upstream).replace("listen 80;", &format!("listen {address};"));
        assert!(block.contains(upstream) && block.contains(&address.to_string()), "{block}");
        let root = folder.display();
        let temps: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {root}/{name};\n"))
            .concat();
        let config = format!(
            "daemon off;\npid {root}/pid;\nerror_log stderr;\n{user}events {{}}\nhttp {{\naccess_log off;\n{temps}{block}}}\n"
        );
        fs::write(folder.join("nginx.conf"), config).expect("a configuration");
        let mut command = pages::shell(site, &["nginx"]);
        command.arg("-p").arg(&folder).arg("-c").arg(folder.join("nginx.conf")).args(["-e", "stderr"]);
        command.env("NGINX", "3;").stdout(Stdio::inherit()).stderr(Stdio::inherit());
        sys::hand_over(&mut command, listener.into(), 3);
        (Self(command.spawn().expect("nginx")), Address::Tcp(address))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        process::signal(self.0.id() as i32, Signal::SIGQUIT);
        let _ = self.0.wait();
    }
}

#[test]
fn in_front_over_a_unix_socket() {
    let site = Site::new();
    let server = servers::GUNICORN_SYNC;
    for name in ["one", "two", "three"] {
        server.release(&site, name, "good");
    }
    server.release(&site, "broken", "broken");
    site.deploy("one");
    let root = nix::unistd::geteuid().is_root();
    let own = nix::unistd::Group::from_gid(nix::unistd::getegid()).ok().flatten().expect("a group");
    let group = nix::unistd::Group::from_name("www-data").expect("groups").filter(|_| root).unwrap_or(own);
    let path = site.root().join("shop.sock");
    let path = path.to_str().expect("a readable path");
    let listen = format!("unix://{path}?mode=0660&group={}", group.name);
    let master = server.start(site.master().listen(&[&listen]));
    all_on(&master.until_state("steady"), "one");
    let socket = fs::metadata(path).expect("the socket");
    assert!(socket.file_type().is_socket());
    assert_eq!((socket.mode() & 0o7777, socket.gid()), (0o660, group.gid.as_raw()));

    // (As any other user than root it could not become www-data, and says so.)
    let user = if root { "user www-data;\n" } else { "" };
    let (nginx, address) = Nginx::start(&site, path, user);
    let load = Load::start(&address);
    load.until("one");
    let _ = master.roll("two").expect(0);
    all_on(&master.stats(), "two");
    load.until("two");
    let said = master.roll("broken").expect(3);
    assert!(said.stderr.contains(server.error), "{}", said.stderr);
    all_on(&master.stats(), "two");
    load.more(50);
    let _ = master.roll("three").expect(0);
    load.until("three");
    let tally = load.finish();
    assert_eq!(tally.releases.keys().collect::<Vec<_>>(), ["one", "three", "two"], "{tally:?}");
    let now = fs::metadata(path).expect("the socket");
    assert_eq!((now.ino(), now.mode()), (socket.ino(), socket.mode()), "the socket's file is another one");
    drop(nginx);
    stopped(master);
}
