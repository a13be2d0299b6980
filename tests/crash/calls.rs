//! The system calls that the sweeps visit, and how each is told from the others in every run.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use nix::libc::{
    O_ACCMODE, O_CREAT, O_RDONLY, O_TRUNC, SYS_accept4, SYS_access, SYS_chmod, SYS_chown, SYS_copy_file_range,
    SYS_creat, SYS_dup, SYS_epoll_create1, SYS_faccessat, SYS_faccessat2, SYS_fallocate, SYS_fchmod, SYS_fchmodat,
    SYS_fchown, SYS_fchownat, SYS_fdatasync, SYS_flock, SYS_fsetxattr, SYS_fstat, SYS_fstatfs, SYS_fsync,
    SYS_ftruncate, SYS_getdents64, SYS_lchown, SYS_link, SYS_linkat, SYS_lsetxattr, SYS_lstat, SYS_mkdir, SYS_mkdirat,
    SYS_newfstatat, SYS_open, SYS_openat, SYS_openat2, SYS_pidfd_open, SYS_pipe2, SYS_pread64, SYS_pwrite64,
    SYS_pwritev, SYS_read, SYS_readlink, SYS_readlinkat, SYS_readv, SYS_rename, SYS_renameat, SYS_renameat2, SYS_rmdir,
    SYS_sendfile, SYS_sendmsg, SYS_sendto, SYS_setxattr, SYS_socket, SYS_socketpair, SYS_splice, SYS_stat, SYS_statfs,
    SYS_statx, SYS_symlink, SYS_symlinkat, SYS_sync_file_range, SYS_syncfs, SYS_truncate, SYS_unlink, SYS_unlinkat,
    SYS_utimensat, SYS_write, SYS_writev, c_long, user_regs_struct,
};

/// The longest path that is read; longer ones are cut.
const LONGEST_PATH: usize = 4096;
/// From how many hex digits on a word of a path is different in each run.
const RANDOM_DIGITS: usize = 8;

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effect {
    /// It reads the disk.
    Reads,
    /// It changes the disk, or makes a change durable.
    Changes,
    /// It sends bytes to Consul, or to whoever asked the agent.
    Sends,
    /// It makes a descriptor of something that is no file.
    Opens,
}

/// The part of a deploy that a call belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Window {
    Prepare,
    Switch,
    Revert,
    /// What comes after the end of a deploy: pruning, and the removal of a failed release.
    Prune,
}

/// One call, told from the others by what it does to which path in which window, and how many such there were before it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    pub(crate) window: Window,
    pub(crate) effect: Effect,
    pub(crate) name: &'static str,
    /// Below the fleet's directory, with `*` for words that are different in each run; `socket` for one.
    pub(crate) path: String,
    /// Counts from 1.
    pub(crate) nth: usize,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}({}), number {}", self.window, self.name, self.path, self.nth)
    }
}

/// Which arguments of a call name its file.
#[derive(Clone, Copy)]
enum Names {
    /// A descriptor.
    Fd(usize),
    /// A path from the working directory.
    Path(usize),
    /// A directory's descriptor, and a path from there.
    At(usize, usize),
    /// No file.
    Nothing,
}

#[derive(Clone, Copy)]
struct Kind {
    number: c_long,
    name: &'static str,
    names: Names,
    effect: Effect,
}

const fn kind(number: c_long, name: &'static str, names: Names, effect: Effect) -> Kind {
    Kind { number, name, names, effect }
}

/// Where a call has two files, the one that it makes or writes to.
const KINDS: [Kind; 65] = {
    use Effect::{Changes, Opens, Reads, Sends};
    use Names::{At, Fd, Nothing, Path};
    [
        kind(SYS_accept4, "accept4", Nothing, Opens),
        kind(SYS_access, "access", Path(0), Reads),
        kind(SYS_chmod, "chmod", Path(0), Changes),
        kind(SYS_chown, "chown", Path(0), Changes),
        kind(SYS_copy_file_range, "copy_file_range", Fd(2), Changes),
        kind(SYS_creat, "creat", Path(0), Changes),
        kind(SYS_dup, "dup", Nothing, Opens),
        kind(SYS_epoll_create1, "epoll_create1", Nothing, Opens),
        kind(SYS_faccessat, "faccessat", At(0, 1), Reads),
        kind(SYS_faccessat2, "faccessat2", At(0, 1), Reads),
        kind(SYS_fallocate, "fallocate", Fd(0), Changes),
        kind(SYS_fchmod, "fchmod", Fd(0), Changes),
        kind(SYS_fchmodat, "fchmodat", At(0, 1), Changes),
        kind(SYS_fchown, "fchown", Fd(0), Changes),
        kind(SYS_fchownat, "fchownat", At(0, 1), Changes),
        kind(SYS_fdatasync, "fdatasync", Fd(0), Changes),
        kind(SYS_flock, "flock", Fd(0), Changes),
        kind(SYS_fsetxattr, "fsetxattr", Fd(0), Changes),
        kind(SYS_fstat, "fstat", Fd(0), Reads),
        kind(SYS_fstatfs, "fstatfs", Fd(0), Reads),
        kind(SYS_fsync, "fsync", Fd(0), Changes),
        kind(SYS_ftruncate, "ftruncate", Fd(0), Changes),
        kind(SYS_getdents64, "getdents64", Fd(0), Reads),
        kind(SYS_lchown, "lchown", Path(0), Changes),
        kind(SYS_link, "link", Path(1), Changes),
        kind(SYS_linkat, "linkat", At(2, 3), Changes),
        kind(SYS_lsetxattr, "lsetxattr", Path(0), Changes),
        kind(SYS_lstat, "lstat", Path(0), Reads),
        kind(SYS_mkdir, "mkdir", Path(0), Changes),
        kind(SYS_mkdirat, "mkdirat", At(0, 1), Changes),
        kind(SYS_newfstatat, "newfstatat", At(0, 1), Reads),
        // Changes where its flags say so.
        kind(SYS_open, "open", Path(0), Reads),
        kind(SYS_openat, "openat", At(0, 1), Reads),
        kind(SYS_openat2, "openat2", At(0, 1), Reads),
        kind(SYS_pidfd_open, "pidfd_open", Nothing, Opens),
        kind(SYS_pipe2, "pipe2", Nothing, Opens),
        kind(SYS_pread64, "pread64", Fd(0), Reads),
        kind(SYS_pwrite64, "pwrite64", Fd(0), Changes),
        kind(SYS_pwritev, "pwritev", Fd(0), Changes),
        kind(SYS_read, "read", Fd(0), Reads),
        kind(SYS_readlink, "readlink", Path(0), Reads),
        kind(SYS_readlinkat, "readlinkat", At(0, 1), Reads),
        kind(SYS_readv, "readv", Fd(0), Reads),
        kind(SYS_rename, "rename", Path(1), Changes),
        kind(SYS_renameat, "renameat", At(2, 3), Changes),
        kind(SYS_renameat2, "renameat2", At(2, 3), Changes),
        kind(SYS_rmdir, "rmdir", Path(0), Changes),
        kind(SYS_sendfile, "sendfile", Fd(0), Changes),
        kind(SYS_sendmsg, "sendmsg", Fd(0), Sends),
        kind(SYS_sendto, "sendto", Fd(0), Sends),
        kind(SYS_setxattr, "setxattr", Path(0), Changes),
        kind(SYS_socket, "socket", Nothing, Opens),
        kind(SYS_socketpair, "socketpair", Nothing, Opens),
        kind(SYS_splice, "splice", Fd(2), Changes),
        kind(SYS_stat, "stat", Path(0), Reads),
        kind(SYS_statfs, "statfs", Path(0), Reads),
        kind(SYS_statx, "statx", At(0, 1), Reads),
        kind(SYS_symlink, "symlink", Path(1), Changes),
        kind(SYS_symlinkat, "symlinkat", At(1, 2), Changes),
        kind(SYS_sync_file_range, "sync_file_range", Fd(0), Changes),
        kind(SYS_syncfs, "syncfs", Fd(0), Changes),
        kind(SYS_truncate, "truncate", Path(0), Changes),
        kind(SYS_unlink, "unlink", Path(0), Changes),
        kind(SYS_unlinkat, "unlinkat", At(0, 1), Changes),
        kind(SYS_utimensat, "utimensat", At(0, 1), Changes),
    ]
};

/// Calls that write to a file or to a socket.
const WRITES: [Kind; 2] = [
    kind(SYS_write, "write", Names::Fd(0), Effect::Changes),
    kind(SYS_writev, "writev", Names::Fd(0), Effect::Changes),
];

/// What a thread is about to call.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) name: &'static str,
    pub(crate) effect: Effect,
    /// As in [`Call::path`].
    pub(crate) path: String,
}

/// The directory whose calls count, and the process that makes them.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) pid: i32,
    /// With links resolved.
    pub(crate) root: PathBuf,
}

impl Scope {
    /// The call that a thread with these registers is about to make; none if it is of no interest.
    pub(crate) fn seen(&self, registers: &user_regs_struct) -> Option<Seen> {
        let number = registers.orig_rax.cast_signed();
        let kind = KINDS.iter().chain(&WRITES).find(|kind| kind.number == number)?;
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
        let full = match kind.names {
            Names::Nothing => {
                return Some(Seen { name: kind.name, effect: kind.effect, path: String::new() });
            }
            Names::Fd(fd) => self.fd(arguments[fd])?,
            Names::Path(path) => self.text(arguments[path])?,
            Names::At(dir, path) => match self.text(arguments[path]) {
                Some(path) if path.is_absolute() => path,
                Some(path) if !path.as_os_str().is_empty() => self.fd(arguments[dir])?.join(path),
                // The descriptor itself.
                _ => self.fd(arguments[dir])?,
            },
        };
        if full.to_str().is_some_and(|text| text.starts_with("socket:")) {
            let sends = kind.effect == Effect::Sends || WRITES.iter().any(|it| it.number == number);
            let seen = Seen { name: kind.name, effect: Effect::Sends, path: "socket".to_owned() };
            return sends.then_some(seen);
        }
        let below = full.strip_prefix(&self.root).ok()?;
        // The agent's output, which the test reads.
        if below == Path::new("web-1/log") || kind.effect == Effect::Sends {
            return None;
        }
        let flags = match kind.name {
            "open" => arguments[1],
            "openat" => arguments[2],
            _ => 0,
        };
        let effect = if opens_to_write(flags) { Effect::Changes } else { kind.effect };
        Some(Seen { name: kind.name, effect, path: without_random_words(&below.to_string_lossy()) })
    }

    fn fd(&self, fd: u64) -> Option<PathBuf> {
        // AT_FDCWD is negative.
        let fd = u32::try_from(fd).ok().and_then(|fd| i32::try_from(fd).ok());
        match fd {
            Some(fd) => fs::read_link(format!("/proc/{}/fd/{fd}", self.pid)).ok(),
            None => fs::read_link(format!("/proc/{}/cwd", self.pid)).ok(),
        }
    }

    fn text(&self, address: u64) -> Option<PathBuf> {
        if address == 0 {
            return None;
        }
        let memory = File::open(format!("/proc/{}/mem", self.pid)).ok()?;
        let mut bytes = vec![0; LONGEST_PATH];
        let length = memory.read_at(&mut bytes, address).ok()?;
        let end = bytes[..length].iter().position(|byte| *byte == 0)?;
        bytes.truncate(end);
        Some(String::from_utf8(bytes).ok()?.into())
    }
}

fn opens_to_write(flags: u64) -> bool {
    i32::try_from(flags & 0x7fff_ffff)
        .is_ok_and(|flags| flags & O_ACCMODE != O_RDONLY || flags & (O_CREAT | O_TRUNC) != 0)
}

fn without_random_words(path: &str) -> String {
    let mut clean = String::new();
    for part in path.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_random = word.len() >= RANDOM_DIGITS && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        clean.push_str(if is_random { "*" } else { word });
        clean.push_str(&part[word.len()..]);
    }
    clean
}
