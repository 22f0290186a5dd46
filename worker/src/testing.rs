//! What the unit tests share.

use proto::worker::{BootSpec, Command, Listener, Ready};
use proto::{Incarnation, Phase, Slot};

/// A boot order with two listeners, `web` and `admin`.
pub(crate) fn spec() -> BootSpec {
    BootSpec {
        name: "app".into(),
        slot: Slot(2),
        incarnation: Incarnation(11),
        phase: Phase(7),
        release: b"/app/releases/42".to_vec(),
        command: Command::Words(vec![b"server".to_vec()]),
        env: Vec::new(),
        listeners: vec![
            Listener { name: "web".into(), address: "127.0.0.1:8080".into() },
            Listener { name: "admin".into(), address: "/run/admin.sock".into() },
        ],
        backlog: 1024,
        ready: Ready::Accepting,
        boot_timeout_ms: 60_000,
        stop_signal: 15,
        drain_timeout_ms: 30_000,
        control_socket: b"/run/phased/app.sock".to_vec(),
        token: "t0k3n".into(),
        site: "site".into(),
        orphan_socket: Vec::new(),
        orphan_timeout_ms: 0,
        log_prefix: false,
        task: proto::worker::Task::Serve,
        env_file: None,
        before_boot: None,
        checks: Vec::new(),
        check_timeout_ms: 5000,
        watchdog_ms: None,
        max_memory: None,
        user: None,
        umask: None,
    }
}
