//! A request to this module: reading it, and answering it at once or later.
//!
//! Invariants for `unsafe`: those of [`super`].

use std::ffi::c_void;
use std::ptr::NonNull;

use nginx_sys::{
    ngx_buf_t, ngx_chain_t, ngx_http_cleanup_add, ngx_http_finalize_request, ngx_http_request_t,
    ngx_http_run_posted_requests, ngx_http_test_reading, ngx_int_t, ngx_module_t, ngx_pcalloc,
    ngx_pool_cleanup_add, ngx_str_t, NGX_DONE, NGX_ERROR, NGX_HTTP_GET, NGX_HTTP_HEAD,
    NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_OK,
};
use ngx::core::Status;
use ngx::http::{HTTPStatus, HttpModuleConfExt, Request as NgxRequest};

/// A request that nginx passed to this module. It may be used in the handler that got it, and
/// afterwards until it is [gone](Request::hold).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request(NonNull<ngx_http_request_t>);

/// A complete response.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The content type.
    pub content_type: &'static str,
    /// Further header fields.
    pub headers: Vec<(&'static str, &'static str)>,
    /// The body. It is not sent in answer to HEAD.
    pub body: Vec<u8>,
}

/// The rest of a body that is not sent yet. The request owns the bytes, and they live as long as
/// it.
#[derive(Debug)]
pub struct Unsent(NonNull<[u8]>);

/// Bytes of a body that are sent at a time. To write a part to a socket takes time, more so if it
/// is compressed.
pub const PART: usize = 32 * 1024;

/// The code returned to nginx for a request that failed in this module.
pub const FAILED: ngx_int_t = NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;

impl Request {
    /// Wraps nginx's pointer to a request. Returns `None` if it is null.
    ///
    /// # Safety
    ///
    /// `request` is the pointer that nginx passed to a content handler of this module.
    pub unsafe fn from_raw(request: *mut ngx_http_request_t) -> Option<Self> {
        NonNull::new(request).map(Request)
    }

    fn ngx(&mut self) -> &mut NgxRequest {
        // SAFETY: the request is alive, and nothing else uses it during this call (N1, N3).
        unsafe { NgxRequest::from_ngx_http_request(self.0.as_ptr()) }
    }

    fn raw(&self) -> &ngx_http_request_t {
        // SAFETY: the request is alive (N3).
        unsafe { self.0.as_ref() }
    }

    /// Returns whether the method is GET or HEAD.
    pub fn is_get_or_head(&self) -> bool {
        matches!(self.raw().method as u32, NGX_HTTP_GET | NGX_HTTP_HEAD)
    }

    /// Returns the query string as the client sent it, without the question mark.
    pub fn args(&self) -> &[u8] {
        let args = self.raw().args;
        if args.data.is_null() {
            return &[];
        }
        // SAFETY: the string is a part of the request's header buffers (N3).
        unsafe { std::slice::from_raw_parts(args.data, args.len) }
    }

    /// Returns the values of all header fields of this name, joined by commas. Bytes that are not
    /// UTF-8 are replaced.
    pub fn header(&mut self, name: &str) -> String {
        let fields = self.ngx().headers_in_iterator();
        let values = fields.filter(|(key, _)| key.as_bytes().eq_ignore_ascii_case(name.as_bytes()));
        values.map(|(_, value)| value.to_string_lossy()).collect::<Vec<_>>().join(",")
    }

    /// Returns the configuration that a module has for the request's location.
    ///
    /// # Safety
    ///
    /// `T` is the type that `module` creates in `create_loc_conf`.
    pub unsafe fn location_conf<T>(&mut self, module: &ngx_module_t) -> Option<&T> {
        // SAFETY: the configuration has this type by contract, and lives as long as the cycle (N4).
        unsafe { Some(self.ngx().http_location_conf_unchecked::<T>(module)?.as_ref()) }
    }

    /// Reads the request's body and drops it. The code of an error is for nginx.
    pub fn discard_body(&mut self) -> Result<(), ngx_int_t> {
        match self.ngx().discard_request_body() {
            Status::NGX_OK => Ok(()),
            Status(code) => Err(code),
        }
    }

    /// Sends a response at once. Returns the code for nginx.
    pub fn respond(&mut self, response: Response) -> ngx_int_t {
        let mut unsent = match self.begin(response) {
            Ok(unsent) => unsent,
            Err(code) => return code,
        };
        loop {
            if let Some(code) = self.send(&mut unsent) {
                return code;
            }
        }
    }

    /// Sends the head of a response, and takes ownership of its body. Returns an error, the code
    /// for nginx, if no body is to follow.
    pub fn begin(&mut self, response: Response) -> Result<Unsent, ngx_int_t> {
        let Response { status, content_type, headers, body } = response;
        let status = HTTPStatus::from_u16(status).map_err(|_| FAILED)?;
        let ngx = self.ngx();
        ngx.set_status(status);
        ngx.set_content_length_n(body.len());
        for (name, value) in headers {
            ngx.add_header_out(name, value).ok_or(FAILED)?;
        }
        let content_type = content_type.as_bytes();
        // SAFETY: the request is alive, and nothing else uses it during this call (N1, N3).
        let headers_out = unsafe { &mut self.0.as_mut().headers_out };
        headers_out.content_type =
            ngx_str_t { len: content_type.len(), data: content_type.as_ptr().cast_mut() };
        // Filters compare the type without its parameters.
        let essence = content_type.iter().position(|byte| *byte == b';');
        headers_out.content_type_len = essence.unwrap_or(content_type.len());
        let unsent = self.own(body).ok_or(FAILED)?;
        let ngx = self.ngx();
        let sent = ngx.send_header();
        if sent == Status::NGX_ERROR || sent.0 > NGX_OK as ngx_int_t || ngx.header_only() {
            return Err(sent.0);
        }
        Ok(unsent)
    }

    /// Passes ownership of a body to the request, without a copy. The body is freed when the
    /// request's pool is destroyed.
    fn own(&mut self, body: Vec<u8>) -> Option<Unsent> {
        unsafe extern "C" fn free(body: *mut c_void) {
            // SAFETY: this is the vector that was written there, and nginx calls the handler once
            // (N4).
            unsafe { std::ptr::drop_in_place(body.cast::<Vec<u8>>()) }
        }
        // SAFETY: the pool is the request's own, and the cleanup has room for a vector (N3, N4).
        unsafe {
            let cleanup = ngx_pool_cleanup_add(self.raw().pool, size_of::<Vec<u8>>()).as_mut()?;
            let owner = cleanup.data.cast::<Vec<u8>>();
            owner.write(body);
            cleanup.handler = Some(free);
            Some(Unsent((*owner).as_mut_slice().into()))
        }
    }

    /// Sends the next part of a body of this request. Returns the code for nginx when everything is
    /// sent or sending failed, `None` when there is more to send.
    pub fn send(&mut self, unsent: &mut Unsent) -> Option<ngx_int_t> {
        // SAFETY: the request is alive, and it owns the bytes since `own` (N3, N4).
        let (part, rest) = unsafe {
            let body = unsent.0.as_mut();
            body.split_at_mut(body.len().min(PART))
        };
        unsent.0 = rest.into();
        let is_last = unsent.0.is_empty();
        let Some(buffer) = self.buffer(part, is_last) else { return Some(NGX_ERROR as ngx_int_t) };
        let mut chain = ngx_chain_t { buf: buffer, next: std::ptr::null_mut() };
        let sent = self.ngx().output_filter(&mut chain);
        (is_last || sent == Status::NGX_ERROR).then_some(sent.0)
    }

    /// Returns a buffer of nginx's for a part of the body, or `None` if memory is refused.
    fn buffer(&self, part: &mut [u8], is_last: bool) -> Option<*mut ngx_buf_t> {
        let is_main = std::ptr::eq(self.raw().main, self.0.as_ptr());
        let ends = part.as_mut_ptr_range();
        // SAFETY: the buffer comes from the request's pool, and nothing else uses it yet (N3, N4).
        unsafe {
            let buffer = ngx_pcalloc(self.raw().pool, size_of::<ngx_buf_t>()).cast::<ngx_buf_t>();
            let buffer = buffer.as_mut()?;
            (buffer.start, buffer.pos) = (ends.start, ends.start);
            (buffer.last, buffer.end) = (ends.end, ends.end);
            buffer.set_memory((!part.is_empty()).into());
            buffer.set_last_buf((is_last && is_main).into());
            buffer.set_last_in_chain(is_last.into());
            Some(buffer)
        }
    }

    /// Keeps the request open until [`Request::end`]. The content handler then returns
    /// [`Request::HELD`]. nginx calls `gone` with the address of the request as the last step
    /// before it frees the request: after an ordinary end, or when the client has closed its
    /// connection.
    pub fn hold(&mut self, gone: unsafe extern "C" fn(*mut c_void)) -> Result<(), ngx_int_t> {
        // SAFETY: the request is alive, and the cleanup lies in its pool (N3, N4).
        let cleanup = unsafe { ngx_http_cleanup_add(self.0.as_ptr(), 0).as_mut() };
        let cleanup = cleanup.ok_or(FAILED)?;
        cleanup.handler = Some(gone);
        cleanup.data = self.0.as_ptr().cast();
        // SAFETY: nginx's own modules that delay requests set the same fields. While nginx is still
        // discarding a body, its handler reads the connection and notices when the client closes it
        // (N1, N3).
        unsafe {
            let request = self.0.as_mut();
            if request.discard_body() == 0 {
                request.read_event_handler = Some(ngx_http_test_reading);
                let read = (*request.connection).read;
                if nginx_sys::ngx_handle_read_event(read, 0) != NGX_OK as ngx_int_t {
                    return Err(FAILED);
                }
            }
            let main = &mut *request.main;
            main.set_count(main.count() + 1);
        }
        Ok(())
    }

    /// The code that the content handler returns after [`Request::hold`].
    pub const HELD: ngx_int_t = NGX_DONE as ngx_int_t;

    /// Ends a held request with the code that sending returned, or with an error if `code` is
    /// `None`. The request must not be used afterwards.
    pub fn end(self, code: Option<ngx_int_t>) {
        let connection = self.raw().connection;
        // SAFETY: as everywhere in nginx, the connection outlives its request. The requests that
        // wait on the connection must be run after a request that ends outside its own events (N1,
        // N3).
        unsafe {
            ngx_http_finalize_request(self.0.as_ptr(), code.unwrap_or(NGX_ERROR as ngx_int_t));
            ngx_http_run_posted_requests(connection);
        }
    }

    /// Returns the address of the request, which identifies it.
    pub fn address(&self) -> usize {
        self.0.as_ptr() as usize
    }
}
