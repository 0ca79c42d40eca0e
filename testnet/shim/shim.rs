//! What stands between a worker and its disk: a library loaded with `LD_PRELOAD` in front of libc.
//!
//! For: counting, failing, cutting short, killing at, and recording the calls that write below one folder. Not for
//! the product: `testnet/build.rs` builds it, the fault harness alone loads it, and it has no dependencies.
//!
//! Configured by environment variables of the worker's process, all set by `testnet/src/faults/shim.rs`:
//! `SHIM_DIR` (the folder), `SHIM_MODE` (count, kill, eio, enospc, trace), `SHIM_N` (the first call is 1),
//! `SHIM_HOW` (before, half, after; once, ever), `SHIM_ROOM` (bytes still free), `SHIM_OUT` (counter or trace),
//! `SHIM_NOSYNC` (folder below which fdatasync is swallowed: the harness's own test that it sees loss).
//!
//! Unsafe throughout: every function here takes the place of a C function and gets its raw arguments. Each hands
//! them on unchanged, or with a shorter length, and reads only what the caller promised libc to be readable.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::mem::transmute;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

const AT_FDCWD: c_int = -100;
const O_CREAT: c_int = 0o100;
const O_TRUNC: c_int = 0o1000;
const O_APPEND: c_int = 0o2000;
const F_GETFL: c_int = 3;
const SEEK_CUR: c_int = 1;
const SEEK_END: c_int = 2;
const SIGKILL: c_int = 9;
const EIO: c_int = 5;
const ENOSPC: c_int = 28;
const ENOSYS: c_int = 38;
const FALLOC_FL_KEEP_SIZE: c_int = 1;
const FALLOC_FL_PUNCH_HOLE: c_int = 2;
const PROT_WRITE: c_int = 2;
const MAP_SHARED: c_int = 1;
/// Unit in which space is counted, in bytes: the block of the usual file systems.
const BLOCK: u64 = 4096;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn getpid() -> c_int;
    fn readlink(path: *const c_char, into: *mut c_char, size: usize) -> isize;
    fn lseek(fd: c_int, offset: i64, whence: c_int) -> i64;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn access(path: *const c_char, mode: c_int) -> c_int;
    fn __errno_location() -> *mut c_int;
}

/// The next definition of a symbol behind this library: libc's own.
fn real(cache: &AtomicUsize, name: &CStr) -> usize {
    let known = cache.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: RTLD_NEXT (-1) and a NUL-terminated name.
    let found = unsafe { dlsym(-1isize as *mut c_void, name.as_ptr()) } as usize;
    cache.store(found, Ordering::Relaxed);
    found
}

macro_rules! real {
    ($name:literal, fn($($ty:ty),*) -> $ret:ty) => {{
        static CACHE: AtomicUsize = AtomicUsize::new(0);
        // SAFETY: the signature is libc's.
        unsafe { transmute::<usize, extern "C" fn($($ty),*) -> $ret>(real(&CACHE, $name)) }
    }};
}

fn real_write(fd: c_int, bytes: *const c_void, length: usize) -> isize {
    real!(c"write", fn(c_int, *const c_void, usize) -> isize)(fd, bytes, length)
}

fn real_pwrite(fd: c_int, bytes: *const c_void, length: usize, offset: i64) -> isize {
    real!(c"pwrite64", fn(c_int, *const c_void, usize, i64) -> isize)(fd, bytes, length, offset)
}

fn real_open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    real!(c"open64", fn(*const c_char, c_int, c_uint) -> c_int)(path, flags, mode)
}

#[derive(PartialEq, Clone, Copy)]
enum Mode {
    Off,
    Count,
    Kill,
    Eio,
    Enospc,
    Trace,
}

struct Config {
    dir: Vec<u8>,
    mode: Mode,
    n: u64,
    how: Vec<u8>,
    room: u64,
    out: c_int,
    nosync: Option<Vec<u8>>,
}

struct State {
    calls: u64,
    hits: u64,
    /// Free bytes of the full disk, once it is full.
    room: Option<u64>,
    off: bool,
}

static STATE: Mutex<State> = Mutex::new(State { calls: 0, hits: 0, room: None, off: false });

fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| {
        let var = |name: &str| std::env::var_os(name).map(|value| value.as_bytes().to_vec());
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let mode = match std::env::var("SHIM_MODE").as_deref() {
            Ok("count") => Mode::Count,
            Ok("kill") => Mode::Kill,
            Ok("eio") => Mode::Eio,
            Ok("enospc") => Mode::Enospc,
            Ok("trace") => Mode::Trace,
            _ => Mode::Off,
        };
        let mut out = var("SHIM_OUT").unwrap_or_default();
        out.push(0);
        // O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC
        let out = if out.len() > 1 { real_open(out.as_ptr().cast(), 0o2001101, 0o600) } else { -1 };
        Config {
            dir: var("SHIM_DIR").unwrap_or_default(),
            mode,
            n: number("SHIM_N"),
            how: var("SHIM_HOW").unwrap_or_default(),
            room: number("SHIM_ROOM"),
            out,
            nosync: var("SHIM_NOSYNC"),
        }
    })
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fail(errno: c_int) {
    // SAFETY: libc's own address of this thread's errno.
    unsafe { *__errno_location() = errno };
}

fn die() -> ! {
    loop {
        // SAFETY: ends this process.
        unsafe { kill(getpid(), SIGKILL) };
    }
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    !dir.is_empty() && path.starts_with(dir) && matches!(path.get(dir.len()), None | Some(b'/'))
}

fn fd_path(fd: c_int) -> Vec<u8> {
    let link = format!("/proc/self/fd/{fd}\0");
    let mut into = vec![0u8; 4096];
    // SAFETY: the name ends in NUL, the buffer is as long as told.
    let length = unsafe { readlink(link.as_ptr().cast(), into.as_mut_ptr().cast(), into.len()) };
    into.truncate(length.max(0) as usize);
    into
}

fn at_path(dir: c_int, path: *const c_char) -> Vec<u8> {
    // SAFETY: the caller promised libc a NUL-terminated path.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    if path.starts_with(b"/") || dir == AT_FDCWD {
        return path.to_vec();
    }
    let mut whole = fd_path(dir);
    whole.push(b'/');
    whole.extend_from_slice(path);
    whole
}

fn in_scope(path: &[u8]) -> bool {
    config().mode != Mode::Off && is_below(path, &config().dir)
}

fn exists(path: &[u8]) -> bool {
    let mut name = path.to_vec();
    name.push(0);
    // SAFETY: NUL-terminated.
    unsafe { access(name.as_ptr().cast(), 0) == 0 }
}

/// Inode and length, by the one `stat` whose layout is the same on every Linux: `statx`.
fn inode_and_length(fd: c_int, path: &[u8]) -> (u64, u64) {
    let mut name = path.to_vec();
    name.push(0);
    let mut buffer = [0u64; 32];
    // AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW; STATX_BASIC_STATS
    let statx = real!(c"statx", fn(c_int, *const c_char, c_int, c_uint, *mut u64) -> c_int);
    let done = statx(fd, name.as_ptr().cast(), 0x1100, 0x7ff, buffer.as_mut_ptr());
    // stx_ino at byte 32, stx_size at byte 40.
    if done == 0 { (buffer[4], buffer[5]) } else { (0, 0) }
}

fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}

/// One call below the folder.
struct Call<'a> {
    /// What it is, as the trace names it: C create, D mkdir, T truncate, W write, R rename, U unlink, S sync, L link.
    op: u8,
    /// Inode written or synced, if known before.
    inode: u64,
    offset: u64,
    path: &'a [u8],
    path2: &'a [u8],
    data: &'a [u8],
    /// How far the file grows (positive) or shrinks, in bytes of whole blocks.
    grows: i64,
}

/// What is to be done with a call.
enum Verdict {
    Whole,
    /// Only so many bytes of a write.
    Short(usize),
    /// Only so many bytes, then the process is killed.
    ShortThenDie(usize),
    ThenDie,
    Fail(c_int),
}

fn decide(state: &mut State, call: &Call) -> Verdict {
    let config = config();
    state.calls += 1;
    let is_nth = state.calls == config.n;
    let verdict = match config.mode {
        Mode::Kill if is_nth => match config.how.as_slice() {
            b"before" => die(),
            b"half" if call.op == b'W' => Verdict::ShortThenDie(call.data.len() / 2),
            _ => Verdict::ThenDie,
        },
        Mode::Eio if !state.off && (is_nth || (state.calls > config.n && config.how == b"ever")) => {
            state.hits += 1;
            Verdict::Fail(EIO)
        }
        Mode::Enospc if !state.off && state.calls >= config.n => full(state, call, is_nth),
        _ => Verdict::Whole,
    };
    if config.out >= 0 && config.mode != Mode::Trace {
        let both = [state.calls.to_le_bytes(), state.hits.to_le_bytes()].concat();
        real_pwrite(config.out, both.as_ptr().cast(), both.len(), 0);
    }
    verdict
}

/// A disk without room: what grows fails, what gives space back makes room again.
fn full(state: &mut State, call: &Call, is_nth: bool) -> Verdict {
    let config = config();
    if config.how == b"once" {
        if is_nth && matches!(call.op, b'W' | b'C' | b'D' | b'R' | b'S' | b'T') {
            state.hits += 1;
            return Verdict::Fail(ENOSPC);
        }
        return Verdict::Whole;
    }
    let room = state.room.unwrap_or(config.room);
    let left = room.saturating_add_signed(-call.grows);
    if call.grows <= 0 || call.grows as u64 <= room {
        state.room = Some(left);
        return Verdict::Whole;
    }
    state.hits += 1;
    // As a file system does: what fits is written, and the next write says why no more was.
    let missing = call.grows as u64 - room;
    state.room = Some(0);
    match call.data.len().checked_sub(missing as usize) {
        Some(fits) if fits > 0 && call.op == b'W' => Verdict::Short(fits),
        _ => Verdict::Fail(ENOSPC),
    }
}

fn record(call: &Call, inode: u64, length: usize) {
    let data = &call.data[..length.min(call.data.len())];
    let mut head = vec![call.op];
    for number in [inode, call.offset, call.path.len() as u64, call.path2.len() as u64, data.len() as u64] {
        head.extend(number.to_le_bytes());
    }
    head.extend_from_slice(call.path);
    head.extend_from_slice(call.path2);
    head.extend_from_slice(data);
    let mut rest = head.as_slice();
    while !rest.is_empty() {
        let written = real_write(config().out, rest.as_ptr().cast(), rest.len());
        if written <= 0 {
            die();
        }
        rest = &rest[written as usize..];
    }
}

/// Puts one call through: counted, perhaps failed or cut, recorded in the order in which it was done.
fn pass(call: Call, perform: &mut dyn FnMut(Option<usize>) -> isize) -> isize {
    let mut state = state();
    let verdict = decide(&mut state, &call);
    match verdict {
        Verdict::Fail(errno) => {
            fail(errno);
            -1
        }
        Verdict::ThenDie => {
            perform(None);
            die()
        }
        Verdict::ShortThenDie(length) => {
            perform(Some(length));
            die()
        }
        Verdict::Short(length) => perform(Some(length)),
        Verdict::Whole => {
            let result = perform(None);
            if config().mode == Mode::Trace && result >= 0 {
                let is_write = call.op == b'W';
                let late = matches!(call.op, b'C' | b'D') && call.inode == 0;
                let inode = if late { inode_and_length(AT_FDCWD, call.path).0 } else { call.inode };
                record(&call, inode, if is_write { result as usize } else { 0 });
            }
            result
        }
    }
}

// ---- opening

fn open_at(dir: c_int, path: *const c_char, flags: c_int, real: &mut dyn FnMut() -> c_int) -> c_int {
    if flags & (O_CREAT | O_TRUNC) == 0 {
        return real();
    }
    let name = at_path(dir, path);
    if !in_scope(&name) {
        return real();
    }
    let is_there = exists(&name);
    let (inode, length) = if is_there { inode_and_length(AT_FDCWD, &name) } else { (0, 0) };
    let op = match is_there {
        false if flags & O_CREAT != 0 => b'C',
        true if flags & O_TRUNC != 0 => b'T',
        _ => return real(),
    };
    let grows = if is_there { -(blocks(length) as i64) } else { 0 };
    let call = Call { op, inode, offset: 0, path: &name, path2: b"", data: b"", grows };
    pass(call, &mut |_| real() as isize) as c_int
}

macro_rules! hook_open {
    ($($name:ident $text:literal),*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
            let real = real!($text, fn(*const c_char, c_int, c_uint) -> c_int);
            open_at(AT_FDCWD, path, flags, &mut || real(path, flags, mode))
        }
    )*};
}
hook_open!(open c"open", open64 c"open64");

macro_rules! hook_openat {
    ($($name:ident $text:literal),*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(dir: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
            let real = real!($text, fn(c_int, *const c_char, c_int, c_uint) -> c_int);
            open_at(dir, path, flags, &mut || real(dir, path, flags, mode))
        }
    )*};
}
hook_openat!(openat c"openat", openat64 c"openat64");

// ---- writing

/// A write at an offset, or at the file's own position.
fn write_at(
    fd: c_int,
    bytes: *const c_void,
    length: usize,
    offset: Option<i64>,
    real: &mut dyn FnMut(usize) -> isize,
) -> isize {
    let path = fd_path(fd);
    // SAFETY: the caller promised libc `length` readable bytes.
    let data = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) };
    if !in_scope(&path) {
        if fd == 1 && config().mode == Mode::Trace {
            // What the worker says is part of the order of events.
            let said = Call { op: b'A', inode: 0, offset: 0, path: b"", path2: b"", data, grows: 0 };
            let _held = state();
            let result = real(length);
            record(&said, 0, result.max(0) as usize);
            return result;
        }
        return real(length);
    }
    let (inode, old) = inode_and_length(fd, b"");
    // SAFETY: plain calls on the caller's descriptor; no data is touched.
    let at = offset.unwrap_or_else(|| unsafe {
        let appends = fcntl(fd, F_GETFL) & O_APPEND != 0;
        if appends { lseek(fd, 0, SEEK_END) } else { lseek(fd, 0, SEEK_CUR) }
    }) as u64;
    let grows = blocks(old.max(at + length as u64)) as i64 - blocks(old) as i64;
    let call = Call { op: b'W', inode, offset: at, path: &path, path2: b"", data, grows };
    pass(call, &mut |short| real(short.unwrap_or(length)))
}

#[unsafe(no_mangle)]
pub extern "C" fn write(fd: c_int, bytes: *const c_void, length: usize) -> isize {
    if config().mode == Mode::Off {
        return real_write(fd, bytes, length);
    }
    write_at(fd, bytes, length, None, &mut |length| real_write(fd, bytes, length))
}

macro_rules! hook_pwrite {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(fd: c_int, bytes: *const c_void, length: usize, offset: i64) -> isize {
            write_at(fd, bytes, length, Some(offset), &mut |length| real_pwrite(fd, bytes, length, offset))
        }
    )*};
}
hook_pwrite!(pwrite, pwrite64);

#[repr(C)]
pub struct IoVec {
    base: *const c_void,
    length: usize,
}

/// Vectored writes are made one by one: a short count is allowed, and every caller must go on after it.
fn first_part(
    parts: *const IoVec,
    count: c_int,
    write: &mut dyn FnMut(*const c_void, usize) -> isize,
) -> isize {
    // SAFETY: the caller promised libc `count` readable parts.
    let parts = unsafe { std::slice::from_raw_parts(parts, count.max(0) as usize) };
    parts.iter().find(|part| part.length > 0).map_or(0, |part| write(part.base, part.length))
}

#[unsafe(no_mangle)]
pub extern "C" fn writev(fd: c_int, parts: *const IoVec, count: c_int) -> isize {
    if !in_scope(&fd_path(fd)) {
        return real!(c"writev", fn(c_int, *const IoVec, c_int) -> isize)(fd, parts, count);
    }
    first_part(parts, count, &mut |bytes, length| write(fd, bytes, length))
}

macro_rules! hook_pwritev {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(fd: c_int, parts: *const IoVec, count: c_int, offset: i64) -> isize {
            first_part(parts, count, &mut |bytes, length| pwrite64(fd, bytes, length, offset))
        }
    )*};
}
hook_pwritev!(pwritev, pwritev64);

/// The kernel's copies are refused, so that the caller falls back to reading and writing, which is seen.
#[unsafe(no_mangle)]
pub extern "C" fn copy_file_range(
    _: c_int,
    _: *mut i64,
    _: c_int,
    _: *mut i64,
    _: usize,
    _: c_uint,
) -> isize {
    fail(ENOSYS);
    -1
}

macro_rules! hook_sendfile {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(_: c_int, _: c_int, _: *mut i64, _: usize) -> isize {
            fail(ENOSYS);
            -1
        }
    )*};
}
hook_sendfile!(sendfile, sendfile64);

// ---- lengths

fn set_length(fd: c_int, length: i64, real: &mut dyn FnMut() -> c_int) -> c_int {
    let path = fd_path(fd);
    if !in_scope(&path) {
        return real();
    }
    let (inode, old) = inode_and_length(fd, b"");
    // Growing by ftruncate makes a hole, which takes no space.
    let grows = (blocks(length as u64) as i64 - blocks(old) as i64).min(0);
    let call = Call { op: b'T', inode, offset: length as u64, path: &path, path2: b"", data: b"", grows };
    pass(call, &mut |_| real() as isize) as c_int
}

macro_rules! hook_ftruncate {
    ($($name:ident $text:literal),*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(fd: c_int, length: i64) -> c_int {
            let real = real!($text, fn(c_int, i64) -> c_int);
            set_length(fd, length, &mut || real(fd, length))
        }
    )*};
}
hook_ftruncate!(ftruncate c"ftruncate", ftruncate64 c"ftruncate64");

/// Space taken beforehand; in a trace it is a change of length. `F` grows, `P` is a hole punched.
fn allocate(fd: c_int, flags: c_int, offset: i64, length: i64, real: &mut dyn FnMut() -> c_int) -> c_int {
    let path = fd_path(fd);
    if !in_scope(&path) {
        return real();
    }
    let (inode, old) = inode_and_length(fd, b"");
    let end = (offset + length) as u64;
    let punches = flags & FALLOC_FL_PUNCH_HOLE != 0;
    let grows = if punches {
        -(blocks(length as u64) as i64)
    } else {
        (blocks(end) as i64 - blocks(old) as i64).max(0)
    };
    let keeps = flags & FALLOC_FL_KEEP_SIZE != 0;
    let zeros = if punches { vec![0u8; length as usize] } else { Vec::new() };
    let (op, offset, data) = match (punches, keeps) {
        (true, _) => (b'W', offset as u64, zeros.as_slice()),
        (false, true) => (b'T', old, b"".as_slice()),
        (false, false) => (b'T', old.max(end), b"".as_slice()),
    };
    let call = Call { op, inode, offset, path: &path, path2: b"", data, grows };
    pass(call, &mut |_| {
        let done = real();
        if punches && done == 0 { length as isize } else { done as isize }
    })
    .min(0) as c_int
}

macro_rules! hook_fallocate {
    ($($name:ident $text:literal),*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(fd: c_int, flags: c_int, offset: i64, length: i64) -> c_int {
            let real = real!($text, fn(c_int, c_int, i64, i64) -> c_int);
            allocate(fd, flags, offset, length, &mut || real(fd, flags, offset, length))
        }
    )*};
}
hook_fallocate!(fallocate c"fallocate", fallocate64 c"fallocate64");

macro_rules! hook_posix_fallocate {
    ($($name:ident $text:literal),*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(fd: c_int, offset: i64, length: i64) -> c_int {
            let real = real!($text, fn(c_int, i64, i64) -> c_int);
            // This one returns its error and leaves errno alone.
            let mut error = 0;
            let done = allocate(fd, 0, offset, length, &mut || {
                error = real(fd, offset, length);
                -c_int::from(error != 0)
            });
            // SAFETY: libc's own address of this thread's errno.
            if done == 0 { 0 } else if error != 0 { error } else { unsafe { *__errno_location() } }
        }
    )*};
}
hook_posix_fallocate!(posix_fallocate c"posix_fallocate", posix_fallocate64 c"posix_fallocate64");

// ---- names

fn rename_at(from: Vec<u8>, to: Vec<u8>, real: &mut dyn FnMut() -> c_int) -> c_int {
    if !in_scope(&from) && !in_scope(&to) {
        return real();
    }
    let (inode, _) = inode_and_length(AT_FDCWD, &from);
    let replaced = if exists(&to) { inode_and_length(AT_FDCWD, &to).1 } else { 0 };
    let grows = -(blocks(replaced) as i64);
    let call = Call { op: b'R', inode, offset: 0, path: &from, path2: &to, data: b"", grows };
    pass(call, &mut |_| real() as isize) as c_int
}

#[unsafe(no_mangle)]
pub extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let real = real!(c"rename", fn(*const c_char, *const c_char) -> c_int);
    rename_at(at_path(AT_FDCWD, from), at_path(AT_FDCWD, to), &mut || real(from, to))
}

#[unsafe(no_mangle)]
pub extern "C" fn renameat(a: c_int, from: *const c_char, b: c_int, to: *const c_char) -> c_int {
    let real = real!(c"renameat", fn(c_int, *const c_char, c_int, *const c_char) -> c_int);
    rename_at(at_path(a, from), at_path(b, to), &mut || real(a, from, b, to))
}

#[unsafe(no_mangle)]
pub extern "C" fn renameat2(
    a: c_int,
    from: *const c_char,
    b: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    let real = real!(c"renameat2", fn(c_int, *const c_char, c_int, *const c_char, c_uint) -> c_int);
    rename_at(at_path(a, from), at_path(b, to), &mut || real(a, from, b, to, flags))
}

fn remove(path: Vec<u8>, real: &mut dyn FnMut() -> c_int) -> c_int {
    if let Some(command) = path.strip_prefix(b"/karte-shim/") {
        // The worker's way to talk to this library, without a line of unsafe code over there.
        state().off = command == b"off" || (state().off && command != b"on");
        return 0;
    }
    if !in_scope(&path) || !exists(&path) {
        return real();
    }
    let (inode, length) = inode_and_length(AT_FDCWD, &path);
    let grows = -(blocks(length) as i64);
    let call = Call { op: b'U', inode, offset: 0, path: &path, path2: b"", data: b"", grows };
    pass(call, &mut |_| real() as isize) as c_int
}

#[unsafe(no_mangle)]
pub extern "C" fn unlink(path: *const c_char) -> c_int {
    let real = real!(c"unlink", fn(*const c_char) -> c_int);
    remove(at_path(AT_FDCWD, path), &mut || real(path))
}

#[unsafe(no_mangle)]
pub extern "C" fn rmdir(path: *const c_char) -> c_int {
    let real = real!(c"rmdir", fn(*const c_char) -> c_int);
    remove(at_path(AT_FDCWD, path), &mut || real(path))
}

#[unsafe(no_mangle)]
pub extern "C" fn unlinkat(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    let real = real!(c"unlinkat", fn(c_int, *const c_char, c_int) -> c_int);
    remove(at_path(dir, path), &mut || real(dir, path, flags))
}

fn make_dir(path: Vec<u8>, real: &mut dyn FnMut() -> c_int) -> c_int {
    if !in_scope(&path) || exists(&path) {
        return real();
    }
    let call = Call { op: b'D', inode: 0, offset: 0, path: &path, path2: b"", data: b"", grows: 0 };
    pass(call, &mut |_| real() as isize) as c_int
}

#[unsafe(no_mangle)]
pub extern "C" fn mkdir(path: *const c_char, mode: c_uint) -> c_int {
    let real = real!(c"mkdir", fn(*const c_char, c_uint) -> c_int);
    make_dir(at_path(AT_FDCWD, path), &mut || real(path, mode))
}

#[unsafe(no_mangle)]
pub extern "C" fn mkdirat(dir: c_int, path: *const c_char, mode: c_uint) -> c_int {
    let real = real!(c"mkdirat", fn(c_int, *const c_char, c_uint) -> c_int);
    make_dir(at_path(dir, path), &mut || real(dir, path, mode))
}

fn link_at(from: Vec<u8>, to: Vec<u8>, real: &mut dyn FnMut() -> c_int) -> c_int {
    if !in_scope(&to) {
        return real();
    }
    let (inode, _) = inode_and_length(AT_FDCWD, &from);
    let call = Call { op: b'L', inode, offset: 0, path: &from, path2: &to, data: b"", grows: 0 };
    pass(call, &mut |_| real() as isize) as c_int
}

#[unsafe(no_mangle)]
pub extern "C" fn link(from: *const c_char, to: *const c_char) -> c_int {
    let real = real!(c"link", fn(*const c_char, *const c_char) -> c_int);
    link_at(at_path(AT_FDCWD, from), at_path(AT_FDCWD, to), &mut || real(from, to))
}

#[unsafe(no_mangle)]
pub extern "C" fn linkat(a: c_int, from: *const c_char, b: c_int, to: *const c_char, flags: c_int) -> c_int {
    let real = real!(c"linkat", fn(c_int, *const c_char, c_int, *const c_char, c_int) -> c_int);
    link_at(at_path(a, from), at_path(b, to), &mut || real(a, from, b, to, flags))
}

// ---- durability

fn sync_one(fd: c_int, real: &mut dyn FnMut() -> c_int) -> c_int {
    let path = fd_path(fd);
    if !in_scope(&path) {
        return real();
    }
    let (inode, _) = inode_and_length(fd, b"");
    let call = Call { op: b'S', inode, offset: 0, path: &path, path2: b"", data: b"", grows: 0 };
    pass(call, &mut |_| real() as isize) as c_int
}

#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    let real = real!(c"fsync", fn(c_int) -> c_int);
    sync_one(fd, &mut || real(fd))
}

#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    let real = real!(c"fdatasync", fn(c_int) -> c_int);
    if config().nosync.as_ref().is_some_and(|dir| is_below(&fd_path(fd), dir)) {
        return 0;
    }
    sync_one(fd, &mut || real(fd))
}

/// Counted and failed like the others, but in a trace it is nothing: it makes no length and no name durable.
#[unsafe(no_mangle)]
pub extern "C" fn sync_file_range(fd: c_int, offset: i64, length: i64, flags: c_uint) -> c_int {
    let real = real!(c"sync_file_range", fn(c_int, i64, i64, c_uint) -> c_int);
    if config().mode == Mode::Trace {
        return real(fd, offset, length, flags);
    }
    sync_one(fd, &mut || real(fd, offset, length, flags))
}

// ---- what would escape, and free space

/// A file written through memory would not be seen here: the worker is stopped, so that this is noticed.
fn refuse_shared(protection: c_int, flags: c_int, fd: c_int) {
    if fd >= 0 && protection & PROT_WRITE != 0 && flags & MAP_SHARED != 0 && in_scope(&fd_path(fd)) {
        let text =
            b"karte-shim: a file of the store is written through mmap, which this harness cannot see\n";
        real_write(2, text.as_ptr().cast(), text.len());
        die();
    }
}

macro_rules! hook_mmap {
    ($($name:ident $text:literal),*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(
            at: *mut c_void, length: usize, protection: c_int, flags: c_int, fd: c_int, offset: i64,
        ) -> *mut c_void {
            if fd >= 0 && flags & MAP_SHARED != 0 {
                refuse_shared(protection, flags, fd);
            }
            let real = real!($text, fn(*mut c_void, usize, c_int, c_int, c_int, i64) -> *mut c_void);
            real(at, length, protection, flags, fd, offset)
        }
    )*};
}
hook_mmap!(mmap c"mmap", mmap64 c"mmap64");

/// Free space as the full disk would tell it. `f_frsize`, `f_bfree` and `f_bavail` of `struct statvfs` are the
/// second, fourth and fifth word on every 64-bit Linux.
fn correct_space(done: c_int, buffer: *mut c_long) -> c_int {
    let mut state = state();
    let is_full = config().mode == Mode::Enospc && config().how == b"ever" && !state.off;
    if done == 0 && is_full && state.calls + 1 >= config().n {
        let room = *state.room.get_or_insert(config().room);
        // SAFETY: the caller gave libc a whole struct, and it was just filled.
        unsafe {
            let free = room as c_long / (*buffer.add(1)).max(1);
            *buffer.add(3) = free;
            *buffer.add(4) = free;
        }
    }
    done
}

macro_rules! hook_statvfs {
    ($($name:ident $text:literal),*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(path: *const c_char, buffer: *mut c_long) -> c_int {
            let done = real!($text, fn(*const c_char, *mut c_long) -> c_int)(path, buffer);
            if in_scope(&at_path(AT_FDCWD, path)) { correct_space(done, buffer) } else { done }
        }
    )*};
}
hook_statvfs!(statvfs c"statvfs", statvfs64 c"statvfs64");

macro_rules! hook_fstatvfs {
    ($($name:ident $text:literal),*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(fd: c_int, buffer: *mut c_long) -> c_int {
            let done = real!($text, fn(c_int, *mut c_long) -> c_int)(fd, buffer);
            if in_scope(&fd_path(fd)) { correct_space(done, buffer) } else { done }
        }
    )*};
}
hook_fstatvfs!(fstatvfs c"fstatvfs", fstatvfs64 c"fstatvfs64");
