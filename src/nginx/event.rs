//! Waking other processes, being woken, and one-shot timers.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nginx_sys::{
    ngx_add_timer, ngx_connection_t, ngx_cycle, ngx_del_timer, ngx_event_actions, ngx_event_flags,
    ngx_event_t, ngx_free_connection, ngx_get_connection, NGX_OK, NGX_USE_CLEAR_EVENT,
};
use rustix::event::{eventfd, EventfdFlags};

/// `NGX_READ_EVENT` of a Linux build, which the bindings leave out.
#[cfg(ngx_feature = "have_epollrdhup")]
const READ_EVENT: isize = (libc::EPOLLIN | libc::EPOLLRDHUP) as isize;
/// `NGX_READ_EVENT` of a Linux build, which the bindings leave out.
#[cfg(not(ngx_feature = "have_epollrdhup"))]
const READ_EVENT: isize = libc::EPOLLIN as isize;

/// `NGX_CLEAR_EVENT` (`EPOLLET`): an event for each wake-up, whoever else listens.
const CLEAR_EVENT: usize = libc::EPOLLET as u32 as usize;

/// Something to wake processes with. Made in the master, it has the same number in all processes
/// forked later. Several may listen to one: with epoll, each wake-up is an event in all of them.
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    /// Makes one; fails when the process has no descriptor left.
    pub fn new() -> std::io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Waker(eventfd(0, flags)?))
    }

    /// Wakes whoever listens. Never blocks: a full counter wakes as well.
    pub fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Its descriptor, readable while there are wake-ups.
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Takes the wake-ups so far, for a process that is the only one to listen.
    pub fn take(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.0, &mut count);
    }

    /// Takes the wake-ups so far, where the event would come again and again otherwise. With a method
    /// other than epoll, one process may so take a wake-up from another that listens too.
    pub fn drain(&self) {
        // SAFETY: N2.
        if unsafe { ngx_event_flags } & NGX_USE_CLEAR_EVENT as usize == 0 {
            self.take();
        }
    }

    /// Calls `handler` on the event loop of this process whenever this is woken. Takes one of the
    /// process's connections; `false` when nginx has none left (it logs that), or cannot listen.
    pub fn listen(&self, handler: Handler) -> bool {
        let fd = self.descriptor();
        // SAFETY: N1, N2: the process runs an event loop, so its table of connections is there; a
        // connection and its events stay where they are. To nginx the events are those of a channel,
        // which keeps it from the warning about open sockets when the process ends.
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
}

/// A handler of an event.
pub type Handler = unsafe extern "C" fn(*mut ngx_event_t);

/// A timer of the process that fires once.
pub struct Timer {
    /// Boxed: nginx's tree of timers points to the event.
    event: Box<ngx_event_t>,
    /// nginx's debug log reads the descriptor of an event's connection.
    _connection: Box<ngx_connection_t>,
}

impl Timer {
    /// A timer that is not set.
    pub fn new(handler: Handler) -> Self {
        // SAFETY: both are C structures for which all zeroes is the initial value nginx gives them.
        let (mut event, mut connection): (Box<ngx_event_t>, Box<ngx_connection_t>) =
            unsafe { (Box::new(std::mem::zeroed()), Box::new(std::mem::zeroed())) };
        connection.fd = -1;
        event.data = std::ptr::addr_of_mut!(*connection).cast();
        event.handler = Some(handler);
        // SAFETY: N2.
        event.log = unsafe { (*nginx_sys::ngx_cycle).log };
        Timer { event, _connection: connection }
    }

    /// Sets the timer to fire in so many milliseconds, in place of an earlier setting.
    pub fn set(&mut self, ms: u64) {
        self.unset();
        // SAFETY: N1; the event stays where it is until it is unset, at the latest by drop.
        unsafe { ngx_add_timer(&mut *self.event, ms as _) };
    }

    /// Takes the setting back.
    pub fn unset(&mut self) {
        if self.event.timer_set() != 0 {
            // SAFETY: N1; the event is in nginx's tree.
            unsafe { ngx_del_timer(&mut *self.event) };
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.unset();
    }
}
