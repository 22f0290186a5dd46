//! `--user`, `--group` and `--umask`: as whom workers and apps run. Names are looked up here, once, at the start; each
//! worker becomes that user itself.

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Group, Uid, getgrouplist};
use proto::worker::User;

/// Who `--user` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    uid: Uid,
    /// `None`: nobody has this number, and so there is no group of its own.
    gid: Option<Gid>,
    name: String,
    home: PathBuf,
}

impl Account {
    /// A name, else a number, which needs no name.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let failed = |e: nix::Error| format!("cannot look up the user '{text}': {}", e.desc());
        // Digits may be a name, too.
        let found = match (nix::unistd::User::from_name(text).map_err(failed)?, number(text)) {
            (None, Some(uid)) => match nix::unistd::User::from_uid(Uid::from_raw(uid)).map_err(failed)? {
                None => return Ok(Self { uid: Uid::from_raw(uid), gid: None, name: text.into(), home: "/".into() }),
                found => found,
            },
            (found, _) => found,
        };
        let user = found.ok_or_else(|| format!("there is no user '{text}'"))?;
        Ok(Self { uid: user.uid, gid: Some(user.gid), name: user.name, home: user.dir })
    }
}

/// Which group `--group` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedGroup {
    gid: Gid,
    name: String,
}

impl NamedGroup {
    /// A name, else a number, which needs no name.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let found = Group::from_name(text).map_err(|e| format!("cannot look up the group '{text}': {}", e.desc()))?;
        let gid = found.map(|group| group.gid).or_else(|| number(text).map(Gid::from_raw));
        let gid = gid.ok_or_else(|| format!("there is no group '{text}'"))?;
        Ok(Self { gid, name: text.into() })
    }
}

/// The greatest number means "nobody in particular" to the kernel.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|n| *n != u32::MAX)
}

/// A type of its own, for it is octal, which no number of a `--config` is by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Umask(pub(crate) u32);

impl Umask {
    /// `027`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let digits = text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
        let mask = u32::from_str_radix(text, 8).ok().filter(|mask| digits && *mask <= 0o777);
        mask.map(Self).ok_or_else(|| "octal digits are wanted, at most 777: 022, 027, 077".into())
    }
}

/// As whom workers and apps run; `None`: as this process.
///
/// # Errors
/// When this process may not make them so, or what they would be is not complete.
pub(crate) fn resolve(user: Option<&Account>, group: Option<&NamedGroup>) -> Result<Option<User>> {
    let Some(Account { uid, gid, name, home }) = user else { return Ok(None) };
    let Some(gid) = group.map(|group| group.gid).or(*gid) else {
        bail!("nobody has the number {uid}: which group it is to have has to be said with --group");
    };
    let own = Uid::effective();
    if !own.is_root() {
        if own != *uid {
            bail!(
                "only root can run workers as {name}, and this master is of uid {own}: start it as root, or as {name}"
            );
        }
        let has = nix::unistd::getegid();
        if let Some(group) = group.filter(|group| group.gid != has) {
            bail!("only root can run workers with --group {}; this master's group is {has}", group.name);
        }
        return Ok(None);
    }
    let c_name = CString::new(name.as_str())?;
    let groups = match user.and_then(|user| user.gid) {
        Some(_) => getgrouplist(&c_name, gid).with_context(|| format!("cannot look up the groups of {name}"))?,
        None => vec![gid],
    };
    Ok(Some(User {
        uid: uid.as_raw(),
        gid: gid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
        name: name.clone(),
        home: home.clone().into_os_string().into_vec(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let root = Account::parse("root").unwrap();
        assert_eq!(root, Account::parse("0").unwrap());
        assert_eq!((root.uid.as_raw(), root.name.as_str()), (0, "root"));
        assert_eq!(NamedGroup::parse("0").unwrap().gid.as_raw(), 0);
        let nameless = Account::parse("3999999999").unwrap();
        assert_eq!((nameless.uid.as_raw(), nameless.gid), (3_999_999_999, None));
        for unknown in ["no-such-user", "", "-1", "4294967295", "99999999999"] {
            assert_eq!(Account::parse(unknown), Err(format!("there is no user '{unknown}'")));
            assert_eq!(NamedGroup::parse(unknown), Err(format!("there is no group '{unknown}'")));
        }
    }

    #[test]
    fn masks_are_octal() {
        for (text, mask) in [("022", 0o22), ("27", 0o27), ("0077", 0o77), ("0", 0), ("777", 0o777)] {
            assert_eq!(Umask::parse(text), Ok(Umask(mask)), "{text}");
        }
        for text in ["", "8", "1000", "00022", "0o22", "+22", "rwx"] {
            assert!(Umask::parse(text).is_err(), "{text}");
        }
    }
}
