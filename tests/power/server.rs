//! Serves a [`crate::disk::Disk`] to the kernel by FUSE.
//!
//! The kernel keeps no written byte back: without `FUSE_WRITEBACK_CACHE`, each write(2) comes here before it returns.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::disk::{Content, Disk, Maker, NewAttr, Node, Owner, ROOT, Replaces, slot};
use crate::power::{Power, State};

/// How long the kernel may remember an answer: nobody else changes the disk.
const TTL: Duration = Duration::from_mins(10);
/// Blocks of 4 KiB, all free: 4 GiB.
const BLOCKS: u64 = 1 << 20;

/// The mounted disk.
pub(crate) struct Server(pub(crate) Arc<Mutex<State>>);

/// A reply that can be an error.
trait Refuse: Send + 'static {
    fn refuse(self, error: Errno);
}

macro_rules! refuse {
    ($($reply:ty),+) => { $(impl Refuse for $reply { fn refuse(self, error: Errno) { self.error(error); } })+ };
}
refuse!(ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite);

impl Server {
    /// Answers from the disk as it is.
    fn look<R: Refuse, T>(&self, reply: R, work: impl FnOnce(&Disk) -> Result<T, Errno>, answer: impl FnOnce(R, T)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match state.power {
            Power::Off => return state.held.push(Box::new(reply)),
            Power::Dead => Err(Errno::EIO),
            Power::On | Power::Failing(_) => work(&state.disk),
        };
        drop(state);
        match found {
            Ok(found) => answer(reply, found),
            Err(error) => reply.refuse(error),
        }
    }

    /// Changes the disk. `what` is for people.
    fn change<R: Refuse, T>(
        &self,
        reply: R,
        what: impl FnOnce(&mut String),
        work: impl FnOnce(&mut Disk) -> Result<T, Errno>,
        answer: impl FnOnce(R, T),
    ) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let done = match state.power {
            Power::Off => return state.held.push(Box::new(reply)),
            Power::Dead => Err(Errno::EIO),
            Power::On | Power::Failing(_) => work(&mut state.disk),
        };
        if done.is_ok() {
            let mut words = String::new();
            what(&mut words);
            state.done.push(words);
            state.power = match state.power {
                Power::Failing(left) if left > 1 => Power::Failing(left - 1),
                Power::Failing(_) => Power::Off,
                other => other,
            };
        }
        drop(state);
        match done {
            Ok(done) => answer(reply, done),
            Err(error) => reply.refuse(error),
        }
    }

    /// Makes a file, directory or link.
    fn make<R: Refuse>(
        &self,
        reply: R,
        place: (INodeNo, &OsStr),
        content: Content,
        maker: Maker,
        answer: impl FnOnce(R, FileAttr),
    ) {
        let kind = match &content {
            Content::File(_) => "create",
            Content::Directory(_) => "mkdir",
            Content::Link(_) => "symlink",
        };
        let work = |disk: &mut Disk| {
            let made = disk.make(place.0.0, place.1, content, maker)?;
            Ok(attr(made, disk.node(made)?))
        };
        self.change(reply, |words| say(words, kind, place), work, answer);
    }

    fn remove(&self, reply: ReplyEmpty, kind: &str, place: (INodeNo, &OsStr)) {
        let work = |disk: &mut Disk| disk.remove(place.0.0, place.1);
        self.change(reply, |words| say(words, kind, place), work, |reply, ()| reply.ok());
    }

    fn sync(&self, reply: ReplyEmpty, kind: &str, node: INodeNo) {
        let what = |words: &mut String| _ = write!(words, "{kind} {}", node.0);
        self.change(reply, what, |disk| disk.sync(node.0), |reply, ()| reply.ok());
    }
}

fn say(words: &mut String, kind: &str, (dir, name): (INodeNo, &OsStr)) {
    _ = write!(words, "{kind} {}/{}", dir.0, name.display());
}

fn attr(number: u64, node: &Node) -> FileAttr {
    let (kind, size, nlink) = match &node.content {
        Content::File(bytes) => (FileType::RegularFile, bytes.len() as u64, node.names),
        Content::Directory(_) => (FileType::Directory, 4096, 2),
        Content::Link(target) => (FileType::Symlink, target.as_os_str().len() as u64, node.names),
    };
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: node.modified,
        mtime: node.modified,
        ctime: node.changed,
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: u16::try_from(node.mode & 0o7777).unwrap_or_default(),
        nlink,
        uid: node.owner.uid,
        gid: node.owner.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn maker(request: &Request, mode: u32, umask: u32) -> Maker {
    Maker { mode: mode & 0o7777 & !umask, owner: Owner { uid: request.uid(), gid: request.gid() } }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let work = |disk: &Disk| {
            let found = disk.find(parent.0, name)?;
            Ok(attr(found, disk.node(found)?))
        };
        self.look(reply, work, |reply, attr| reply.entry(&TTL, &attr, Generation(0)));
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.look(reply, |disk| Ok(attr(node.0, disk.node(node.0)?)), |reply, attr| reply.attr(&TTL, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let modified = mtime.map(|time| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => SystemTime::now(),
        });
        let new = NewAttr { mode, uid, gid, size, modified };
        let work = |disk: &mut Disk| {
            disk.set(node.0, new)?;
            Ok(attr(node.0, disk.node(node.0)?))
        };
        let what = |words: &mut String| _ = write!(words, "setattr {} {new:?}", node.0);
        self.change(reply, what, work, |reply, attr| reply.attr(&TTL, &attr));
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        let work = |disk: &Disk| match &disk.node(node.0)?.content {
            Content::Link(target) => Ok(target.as_os_str().as_encoded_bytes().to_vec()),
            Content::File(_) | Content::Directory(_) => Err(Errno::EINVAL),
        };
        self.look(reply, work, |reply, target| reply.data(&target));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let content = Content::Directory(BTreeMap::new());
        let maker = maker(request, mode, umask);
        self.make(reply, (parent, name), content, maker, |reply, attr| reply.entry(&TTL, &attr, Generation(0)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(reply, "unlink", (parent, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(reply, "rmdir", (parent, name));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let maker = maker(request, 0o777, 0);
        let content = Content::Link(target.to_path_buf());
        self.make(reply, (parent, name), content, maker, |reply, attr| reply.entry(&TTL, &attr, Generation(0)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let replaces = match flags {
            RenameFlags::RENAME_NOREPLACE => Replaces::Nothing,
            flags if flags.is_empty() => Replaces::Anything,
            _ => return reply.error(Errno::EINVAL),
        };
        let what = |words: &mut String| {
            say(words, "rename", (parent, name));
            say(words, " to", (new_parent, new_name));
        };
        let work = |disk: &mut Disk| disk.rename(slot(parent.0, name), slot(new_parent.0, new_name), replaces);
        self.change(reply, what, work, |reply, ()| reply.ok());
    }

    fn link(&self, _: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let work = |disk: &mut Disk| {
            disk.link(node.0, parent.0, name)?;
            Ok(attr(node.0, disk.node(node.0)?))
        };
        let answer = |reply: ReplyEntry, attr| reply.entry(&TTL, &attr, Generation(0));
        self.change(reply, |words| say(words, "link", (parent, name)), work, answer);
    }

    fn open(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let answer = |reply: ReplyOpen, ()| reply.opened(FileHandle(0), FopenFlags::empty());
        self.look(reply, |disk| disk.node(node.0).map(drop), answer);
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let work = |disk: &Disk| {
            let bytes = disk.node(node.0)?.bytes()?;
            let start = bytes.len().min(usize::try_from(offset).map_err(|_| Errno::EINVAL)?);
            let end = bytes.len().min(start + size as usize);
            Ok(bytes[start..end].to_vec())
        };
        self.look(reply, work, |reply, bytes| reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Ok(length) = u32::try_from(data.len()) else { return reply.error(Errno::EINVAL) };
        let what = |words: &mut String| _ = write!(words, "write {} {offset}+{length}", node.0);
        let work = |disk: &mut Disk| disk.write(node.0, offset, data);
        self.change(reply, what, work, |reply, ()| reply.written(length));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.look(reply, |_| Ok(()), |reply, ()| reply.ok());
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(reply, "fsync", node);
    }

    fn fsyncdir(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(reply, "fsyncdir", node);
    }

    fn readdir(&self, _: &Request, node: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectory) {
        let work = |disk: &Disk| {
            let mut found = Vec::new();
            for (name, number) in disk.entries(node.0)? {
                found.push((*number, attr(*number, disk.node(*number)?).kind, name.clone()));
            }
            // The place of an entry stays when others are removed meanwhile.
            found.sort_by_key(|(number, ..)| *number);
            Ok(found)
        };
        self.look(reply, work, |mut reply, found| {
            // Their numbers are above that of the root, and those of their places above both of the dots.
            let dots = [(1, ROOT, FileType::Directory, ".".into()), (2, ROOT, FileType::Directory, "..".into())];
            let named = found.into_iter().map(|(number, kind, name)| (number + 2, number, kind, name));
            for (place, number, kind, name) in dots.into_iter().chain(named).filter(|(place, ..)| *place > offset) {
                if reply.add(INodeNo(number), place, kind, name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let answer = |reply: ReplyStatfs, ()| reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, 4096, 255, 4096);
        self.look(reply, |_| Ok(()), answer);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let answer = |reply: ReplyCreate, attr: FileAttr| {
            reply.created(&TTL, &attr, Generation(0), FileHandle(0), FopenFlags::empty());
        };
        self.make(reply, (parent, name), Content::File(Vec::new()), maker(request, mode, umask), answer);
    }
}
