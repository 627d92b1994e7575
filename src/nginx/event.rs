//! Wakers between processes, and one-shot timers.
//!
//! Invariants for `unsafe`: those of [`super`].

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nginx_sys::{
    ngx_add_timer, ngx_connection_t, ngx_cycle, ngx_del_timer, ngx_event_actions, ngx_event_flags,
    ngx_event_t, ngx_free_connection, ngx_get_connection, NGX_OK, NGX_USE_CLEAR_EVENT,
};
use rustix::event::{epoll, eventfd, EventfdFlags, Timespec};

/// `NGX_READ_EVENT` of a build for Linux. The bindings do not have it.
#[cfg(ngx_feature = "have_epollrdhup")]
const READ_EVENT: isize = (libc::EPOLLIN | libc::EPOLLRDHUP) as isize;
/// `NGX_READ_EVENT` of a build for Linux. The bindings do not have it.
#[cfg(not(ngx_feature = "have_epollrdhup"))]
const READ_EVENT: isize = libc::EPOLLIN as isize;

/// `NGX_CLEAR_EVENT` (`EPOLLET`): one event for each wake-up, however many processes listen.
const CLEAR_EVENT: usize = libc::EPOLLET as u32 as usize;

/// Wakes processes. The master creates it, and it has the same descriptor number in all processes
/// forked later. Several processes may listen to one waker: each wake-up is an event in all of them.
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    /// Creates a waker. Fails when the process has no file descriptor left.
    pub fn new() -> std::io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Waker(eventfd(0, flags)?))
    }

    /// Wakes all listeners. Never blocks: a full counter wakes them as well.
    pub fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Returns the descriptor, which is readable while wake-ups are pending.
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Takes the pending wake-ups. Only for a process that is the only listener.
    pub fn take(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.0, &mut count);
    }
}

/// The wakers that a process listens to.
///
/// nginx's epoll reports each wake-up once to each process. The other methods of events report a
/// readable waker until it is read, and a process that reads it takes the wake-up from the others.
/// With these methods, nginx therefore watches an epoll instance that belongs to this process alone,
/// and that instance watches the wakers.
#[derive(Debug, Default)]
pub struct Listener {
    /// The epoll instance; `None` with nginx's epoll.
    own: Option<OwnedFd>,
}

impl Listener {
    /// The number of wake-ups that are taken at once.
    const WAKE_UPS: usize = 8;

    /// Calls `handler` on the event loop of this process whenever the waker is woken. Takes one of
    /// the process's connections. Returns `false` if nginx has no connection left (nginx logs that)
    /// or cannot listen.
    pub fn listen(&mut self, waker: &Waker, handler: Handler) -> bool {
        // SAFETY: nginx has set its flags before it calls a module (N2).
        if unsafe { ngx_event_flags } & NGX_USE_CLEAR_EVENT as usize != 0 {
            return watch(waker.descriptor(), handler);
        }
        if self.own.is_none() {
            let own = epoll::create(epoll::CreateFlags::CLOEXEC).ok();
            self.own = own.filter(|own| watch(own.as_raw_fd(), handler));
        }
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(0);
        self.own.as_ref().is_some_and(|own| epoll::add(own, &waker.0, data, flags).is_ok())
    }

    /// Takes this process's pending wake-ups if nginx would report them again otherwise.
    pub fn drain(&self) {
        if let Some(own) = &self.own {
            let mut taken = [const { MaybeUninit::uninit() }; Self::WAKE_UPS];
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            let _ = epoll::wait(own, &mut taken, Some(&at_once));
        }
    }
}

/// Calls `handler` on the event loop whenever a descriptor is readable.
fn watch(fd: RawFd, handler: Handler) -> bool {
    // SAFETY: the process runs an event loop, so its table of connections exists, and a connection
    // and its events keep their addresses (N1, N2). The events are marked as a channel's, so that
    // nginx does not warn about an open socket when the process ends.
    unsafe {
        let log = (*ngx_cycle).log;
        let Some(connection) = ngx_get_connection(fd, log).as_mut() else { return false };
        connection.pool = (*ngx_cycle).pool;
        let (read, write) = (connection.read, connection.write);
        (*read).log = log;
        (*write).log = log;
        (*read).set_channel(1);
        (*write).set_channel(1);
        (*read).handler = Some(handler);
        let listens = ngx_event_actions
            .add
            .is_some_and(|add| add(read, READ_EVENT, CLEAR_EVENT) == NGX_OK as isize);
        if !listens {
            ngx_free_connection(connection);
        }
        listens
    }
}

/// The handler of an event.
pub type Handler = unsafe extern "C" fn(*mut ngx_event_t);

/// A timer of this process that fires once.
pub struct Timer {
    /// Boxed because nginx's tree of timers points to the event.
    event: Box<ngx_event_t>,
    /// nginx's debug log reads the descriptor of an event's connection.
    _connection: Box<ngx_connection_t>,
}

impl Timer {
    /// Creates a timer that is not set.
    pub fn new(handler: Handler) -> Self {
        // SAFETY: both are C structures of nginx, for which zeroes are valid (N5).
        let (mut event, mut connection): (Box<ngx_event_t>, Box<ngx_connection_t>) =
            unsafe { (Box::new(std::mem::zeroed()), Box::new(std::mem::zeroed())) };
        connection.fd = -1;
        event.data = std::ptr::addr_of_mut!(*connection).cast();
        event.handler = Some(handler);
        // SAFETY: `ngx_cycle` points to the current cycle (N2).
        event.log = unsafe { (*nginx_sys::ngx_cycle).log };
        Timer { event, _connection: connection }
    }

    /// A timer that is not set, and that nginx does not wait for when the process ends.
    pub fn cancelable(handler: Handler) -> Self {
        let mut timer = Timer::new(handler);
        timer.event.set_cancelable(1);
        timer
    }

    /// Sets the timer to fire in `ms` milliseconds. Replaces an earlier setting.
    pub fn set(&mut self, ms: u64) {
        self.unset();
        // SAFETY: the event keeps its address until the timer is unset, at the latest when it is
        // dropped (N1).
        unsafe { ngx_add_timer(&mut *self.event, ms as _) };
    }

    /// Cancels the timer.
    pub fn unset(&mut self) {
        if self.event.timer_set() != 0 {
            // SAFETY: the event is in nginx's tree (N1).
            unsafe { ngx_del_timer(&mut *self.event) };
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.unset();
    }
}
