//! The app's environment, built anew for every boot so that nothing of an older release, of the master's own service
//! manager or of an outer server leaks into it.

use proto::worker::{BootSpec, Bytes, Task};

use crate::expand::{Unknown, expand};

/// The app's first inherited socket (systemd's SD_LISTEN_FDS_START, which the other dialects follow).
pub(crate) const FIRST_FD: usize = 3;

/// Variables in order, each key once.
#[derive(Debug, Default)]
pub(crate) struct Env(Vec<(Bytes, Bytes)>);

impl Env {
    /// Sets a variable, in place when it exists.
    pub(crate) fn set(&mut self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) {
        let key = key.as_ref();
        match self.0.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value.into(),
            None => self.0.push((key.to_vec(), value.into())),
        }
    }

    /// A variable's value.
    pub(crate) fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.iter().find(|(k, _)| k == key.as_bytes()).map(|(_, v)| v.as_slice())
    }

    /// `KEY=value` entries, each with its closing NUL, and the index of the one that is `LISTEN_PID=` with room for a
    /// pid (only while its value is [`PID_ROOM`]).
    pub(crate) fn into_entries(self) -> (Vec<Vec<u8>>, Option<usize>) {
        let at = self.0.iter().position(|(k, v)| k == b"LISTEN_PID" && v == PID_ROOM);
        let entries = self.0.into_iter().map(|(mut entry, value)| {
            entry.reserve_exact(value.len() + 2);
            entry.push(b'=');
            entry.extend_from_slice(&value);
            // A NUL inside a value would end it for the kernel anyway.
            entry.push(0);
            entry
        });
        (entries.collect(), at)
    }
}

/// Stands for the app's pid, which is known after the fork only: ten digits of room.
const PID_ROOM: &[u8] = b"          ";

/// What only the worker itself says to its app.
pub(crate) fn is_own(key: &[u8]) -> bool {
    const WHOLE: [&[u8]; 16] = [
        b"PHASED_SOCKET",
        b"PHASED_TOKEN",
        b"PHASED_REHEARSAL",
        b"PWD",
        b"NOTIFY_SOCKET",
        b"WORKER_INDEX",
        b"WORKER_PHASE",
        b"RELEASE_DIR",
        b"LISTEN_FDS",
        b"LISTEN_PID",
        b"LISTEN_FDNAMES",
        b"WATCHDOG_USEC",
        b"WATCHDOG_PID",
        b"SERVER_STARTER_PORT",
        b"EINHORN_FD_COUNT",
        b"FPM_SOCKETS",
    ];
    WHOLE.contains(&key) || key.starts_with(b"EINHORN_FD_")
}

/// What belongs to whoever started the master, or to an outer incarnation: not the app's. By `WEB_CONCURRENCY`, puma, gunicorn
/// and uvicorn would multiply: the slots are the workers.
fn is_foreign(key: &[u8]) -> bool {
    const BEGINNING: [&[u8]; 6] =
        [b"PHASED_", b"LISTEN_", b"WATCHDOG_", b"SERVER_STARTER_", b"EINHORN_", b"FPM_SOCKETS"];
    is_own(key)
        || BEGINNING.iter().any(|b| key.starts_with(b))
        || [&b"JOURNAL_STREAM"[..], b"WEB_CONCURRENCY", b"OLDPWD"].contains(&key)
}

/// Whose environment it is.
#[derive(Clone, Copy)]
pub(crate) enum Whose<'a> {
    /// The app's, which says things on this abstract socket.
    App(&'a [u8]),
    /// That of a hook or check: without the sockets, which it does not get, and without a way to speak for the app.
    Helper,
}

/// Everything but `--env-file`, Procfile assignments and `--env`, which the caller adds in that order.
pub(crate) fn build(inherited: impl IntoIterator<Item = (Bytes, Bytes)>, spec: &BootSpec, whose: Whose<'_>) -> Env {
    let mut env = Env(inherited.into_iter().filter(|(key, _)| !is_foreign(key)).collect());
    if let Some(user) = &spec.user {
        env.set("HOME", user.home.clone());
        env.set("USER", user.name.clone());
        env.set("LOGNAME", user.name.clone());
    }
    env.set("PWD", spec.release.clone());
    if let Whose::App(notify_socket) = whose {
        if !spec.listeners.is_empty() {
            listeners(&mut env, spec);
        }
        env.set("NOTIFY_SOCKET", [b"@", notify_socket].concat());
        if let Some(ms) = spec.watchdog_ms {
            // sd_watchdog_enabled(3). Without WATCHDOG_PID it is meant for whichever process reads it.
            env.set("WATCHDOG_USEC", ms.saturating_mul(1000).to_string());
        }
    }
    if matches!(spec.task, Task::Rehearse) {
        env.set("PHASED_REHEARSAL", "1");
    }
    env.set("WORKER_INDEX", spec.slot.to_string());
    env.set("WORKER_PHASE", spec.phase.to_string());
    env.set("RELEASE_DIR", spec.release.clone());
    env.set("PHASED_SOCKET", spec.control_socket.clone());
    env.set("PHASED_TOKEN", spec.token.clone());
    env
}

/// Adds `--env`, expanded; it may override anything.
///
/// # Errors
/// The key, and [`Unknown`] for a listener that its value names and that does not exist.
pub(crate) fn add_given(env: &mut Env, spec: &BootSpec) -> Result<(), (String, Unknown)> {
    for (key, value) in &spec.env {
        let value = expand(value, spec).map_err(|e| (String::from_utf8_lossy(key).into_owned(), e))?;
        env.set(key, value);
    }
    Ok(())
}

/// The inherited sockets in the dialects that servers speak.
fn listeners(env: &mut Env, spec: &BootSpec) {
    let numbered = || spec.listeners.iter().enumerate().map(|(i, l)| (FIRST_FD + i, l));
    let joined = |separator: &str, each: &dyn Fn(usize, &proto::worker::Listener) -> String| {
        numbered().map(|(fd, l)| each(fd, l)).collect::<Vec<_>>().join(separator)
    };
    // sd_listen_fds(3).
    env.set("LISTEN_FDS", spec.listeners.len().to_string());
    env.set("LISTEN_PID", PID_ROOM);
    env.set("LISTEN_FDNAMES", joined(":", &|_, l| l.name.clone()));
    // Perl's Server::Starter: `host:port=fd;/path=fd`.
    env.set("SERVER_STARTER_PORT", joined(";", &|fd, l| format!("{}={fd}", l.address)));
    // Einhorn: how many, and which number each has.
    env.set("EINHORN_FD_COUNT", spec.listeners.len().to_string());
    for (i, (fd, _)) in numbered().enumerate() {
        env.set(format!("EINHORN_FD_{i}"), fd.to_string());
    }
    // php-fpm (fpm_sockets.c) compares keys with what it builds itself: inet_ntop and `:port`, no brackets for IPv6.
    let bare = |address: &str| match address.strip_prefix('[') {
        Some(six) => six.replacen(']', "", 1),
        None => address.to_string(),
    };
    env.set("FPM_SOCKETS", joined(",", &|fd, l| format!("{}={fd}", bare(&l.address))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::spec;

    fn built(inherited: &[(&str, &str)]) -> Env {
        let inherited = inherited.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec()));
        let mut env = build(inherited, &spec(), Whose::App(b"0001a"));
        add_given(&mut env, &spec()).unwrap();
        env
    }

    fn text(env: &Env, key: &str) -> String {
        env.get(key).map(|v| String::from_utf8_lossy(v).into_owned()).unwrap_or_else(|| format!("no {key}"))
    }

    #[test]
    fn nothing_foreign_is_left() {
        let env = built(&[
            ("HOME", "/root"),
            ("LISTEN_FDS", "9"),
            ("LISTEN_XYZ", "1"),
            ("NOTIFY_SOCKET", "/run/systemd/notify"),
            ("WATCHDOG_USEC", "1"),
            ("JOURNAL_STREAM", "8:1"),
            ("WEB_CONCURRENCY", "4"),
            ("OLDPWD", "/old"),
            ("PWD", "/old"),
            ("PHASED_NAME", "outer"),
            ("EINHORN_FD_7", "7"),
            ("WORKER_INDEX", "9"),
        ]);
        assert_eq!(text(&env, "HOME"), "/root");
        for key in [
            "LISTEN_XYZ",
            "WATCHDOG_USEC",
            "JOURNAL_STREAM",
            "WEB_CONCURRENCY",
            "OLDPWD",
            "PHASED_NAME",
            "EINHORN_FD_7",
        ] {
            assert_eq!(env.get(key), None, "{key}");
        }
        assert_eq!(text(&env, "PWD"), "/app/releases/42");
        assert_eq!(text(&env, "NOTIFY_SOCKET"), "@0001a");
        assert_eq!(text(&env, "WORKER_INDEX"), "2");
        assert_eq!(text(&env, "WORKER_PHASE"), "7");
    }

    #[test]
    fn every_dialect() {
        let env = built(&[]);
        assert_eq!(text(&env, "LISTEN_FDS"), "2");
        assert_eq!(text(&env, "LISTEN_FDNAMES"), "web:admin");
        assert_eq!(text(&env, "SERVER_STARTER_PORT"), "127.0.0.1:8080=3;/run/admin.sock=4");
        assert_eq!(text(&env, "EINHORN_FD_COUNT"), "2");
        assert_eq!(text(&env, "EINHORN_FD_1"), "4");
        assert_eq!(text(&env, "FPM_SOCKETS"), "127.0.0.1:8080=3,/run/admin.sock=4");
        let mut six = spec();
        six.listeners[0].address = "[::1]:80".into();
        let env = build([], &six, Whose::App(b"0001a"));
        assert_eq!(text(&env, "FPM_SOCKETS"), "::1:80=3,/run/admin.sock=4");
        assert_eq!(text(&env, "SERVER_STARTER_PORT"), "[::1]:80=3;/run/admin.sock=4");
    }

    #[test]
    fn without_listeners_none_is_promised() {
        let mut none = spec();
        none.listeners.clear();
        let env = build([], &none, Whose::App(b"0001a"));
        for key in ["LISTEN_FDS", "LISTEN_PID", "SERVER_STARTER_PORT", "EINHORN_FD_COUNT", "FPM_SOCKETS"] {
            assert_eq!(env.get(key), None, "{key}");
        }
    }

    #[test]
    fn a_helper_has_no_sockets_and_does_not_speak_for_the_app() {
        let mut watched = spec();
        watched.watchdog_ms = Some(10_000);
        assert_eq!(text(&build([], &watched, Whose::App(b"0001a")), "WATCHDOG_USEC"), "10000000");
        let env = build([], &watched, Whose::Helper);
        for key in ["LISTEN_FDS", "LISTEN_FDNAMES", "EINHORN_FD_0", "FPM_SOCKETS", "NOTIFY_SOCKET", "WATCHDOG_USEC"] {
            assert_eq!(env.get(key), None, "{key}");
        }
        assert_eq!(text(&env, "RELEASE_DIR"), "/app/releases/42");
        assert_eq!(text(&env, "PHASED_TOKEN"), "t0k3n");
    }

    #[test]
    fn a_user_s_own_variables_are_of_that_user() {
        let outer =
            || [("HOME", "/root"), ("USER", "root")].map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec()));
        let mut order = spec();
        assert_eq!(text(&build(outer(), &order, Whose::Helper), "HOME"), "/root");
        let (name, home) = ("shop".into(), b"/srv/shop".to_vec());
        order.user = Some(proto::worker::User { uid: 1, gid: 1, groups: vec![1], name, home });
        for whose in [Whose::App(b"0001a"), Whose::Helper] {
            let env = build(outer(), &order, whose);
            let values = ["HOME", "USER", "LOGNAME"].map(|key| text(&env, key));
            assert_eq!(values, ["/srv/shop", "shop", "shop"]);
        }
    }

    #[test]
    fn a_rehearsal_is_told_and_nothing_else_is() {
        let mut order = spec();
        let outer = [(b"PHASED_REHEARSAL".to_vec(), b"1".to_vec())];
        assert_eq!(build(outer.clone(), &order, Whose::App(b"0001a")).get("PHASED_REHEARSAL"), None);
        order.task = Task::Rehearse;
        for whose in [Whose::App(b"0001a"), Whose::Helper] {
            assert_eq!(text(&build([], &order, whose), "PHASED_REHEARSAL"), "1");
        }
    }

    #[test]
    fn given_ones_expand_and_override() {
        let mut given = spec();
        given.env = vec![
            (b"BUNDLE_GEMFILE".to_vec(), b"{release}/Gemfile".to_vec()),
            (b"WEB_CONCURRENCY".to_vec(), b"1".to_vec()),
            (b"LISTEN_PID".to_vec(), b"1".to_vec()),
        ];
        let mut env = build([], &given, Whose::App(b"0001a"));
        add_given(&mut env, &given).unwrap();
        assert_eq!(text(&env, "BUNDLE_GEMFILE"), "/app/releases/42/Gemfile");
        assert_eq!(text(&env, "WEB_CONCURRENCY"), "1");
        assert_eq!(env.into_entries().1, None);
    }

    #[test]
    fn there_is_room_for_the_pid() {
        let (entries, at) = built(&[]).into_entries();
        assert_eq!(entries[at.unwrap()], b"LISTEN_PID=          \0");
        assert!(entries.iter().all(|e| e.ends_with(b"\0")));
    }
}
