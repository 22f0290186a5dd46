//! As whom everything of the release is read and executed: the worker itself becomes that user, for good, so that nothing of an app
//! can be more than its worker is.
//!
//! What needs the master's rights is there by then: the listening sockets and the worker's own socket. The worker stays what the
//! kernel makes of a process that changes its user, one that cannot be traced or dumped by others of that user; its app, which
//! executes anew, is not.

use nix::sys::prctl::set_no_new_privs;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, seteuid, setgroups, setresgid, setresuid};
use proto::worker::{BootSpec, Stage, User};

use crate::boot::Failure;
use crate::relay;

/// Becomes who was ordered, if anybody was.
///
/// # Errors
/// A [`Failure`] of stage `spawn`. The worker is half changed then, and must execute nothing.
pub(crate) fn change(spec: &BootSpec) -> Result<(), Failure> {
    if let Some(mask) = spec.umask {
        umask(Mode::from_bits_truncate(mask));
    }
    let Some(user) = &spec.user else { return Ok(()) };
    relay::keep_sinks();
    let User { uid, gid, name, .. } = user;
    change_to(user).map_err(|why| {
        let message = format!(
            "cannot become the user {name} (uid {uid}, gid {gid}): {why}; the master has to be root, with CAP_SETUID and \
             CAP_SETGID"
        );
        Failure::new(Stage::Spawn, message)
    })
}

fn change_to(user: &User) -> Result<(), String> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let mut groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let refused = |call: &'static str| move |e: nix::Error| format!("{call}: {}", e.desc());
    // The user last: whoever is no longer root may not change the groups.
    setgroups(&groups).map_err(refused("setgroups"))?;
    setresgid(gid, gid, gid).map_err(refused("setresgid"))?;
    setresuid(uid, uid, uid).map_err(refused("setresuid"))?;
    set_no_new_privs().map_err(refused("no_new_privs"))?;
    let (uids, gids) = (getresuid().map_err(refused("getresuid"))?, getresgid().map_err(refused("getresgid"))?);
    let mut now = getgroups().map_err(refused("getgroups"))?;
    for list in [&mut groups, &mut now] {
        list.sort_unstable_by_key(|gid| gid.as_raw());
        list.dedup();
    }
    let changed = [uids.real, uids.effective, uids.saved] == [uid; 3]
        && [gids.real, gids.effective, gids.saved] == [gid; 3]
        && now == groups;
    if !changed {
        return Err("the kernel says that it was done, and it was not".into());
    }
    // With CAP_SETUID kept (securebits), it would all be for nothing.
    if !uid.is_root() && seteuid(Uid::from_raw(0)).is_ok() {
        return Err("the way back to root stayed open".into());
    }
    Ok(())
}
