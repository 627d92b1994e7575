//! A request to this module: what it asks, how it is answered, now or later.

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

/// A request that nginx handed to this module. It is good to use in the handler it was handed to,
/// and later until it is [gone](Request::hold).
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
    /// The body; not sent in answer to HEAD.
    pub body: Vec<u8>,
}

/// What is left to send of a body, which is the request's and lives as long as it.
#[derive(Debug)]
pub struct Unsent(NonNull<[u8]>);

/// A body is sent in parts of so many bytes: to write one to a socket, compressed maybe, takes some
/// time.
pub const PART: usize = 32 * 1024;

/// The code for nginx of a request that failed here.
pub const FAILED: ngx_int_t = NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;

impl Request {
    /// A request from nginx's pointer.
    ///
    /// # Safety
    ///
    /// `request` is what nginx handed to a content handler of this module.
    pub unsafe fn from_raw(request: *mut ngx_http_request_t) -> Option<Self> {
        NonNull::new(request).map(Request)
    }

    fn ngx(&mut self) -> &mut NgxRequest {
        // SAFETY: N1, N3: the request is alive, and nothing else uses it during this call.
        unsafe { NgxRequest::from_ngx_http_request(self.0.as_ptr()) }
    }

    fn raw(&self) -> &ngx_http_request_t {
        // SAFETY: N3.
        unsafe { self.0.as_ref() }
    }

    /// Whether the method is GET or HEAD.
    pub fn is_get_or_head(&self) -> bool {
        matches!(self.raw().method as u32, NGX_HTTP_GET | NGX_HTTP_HEAD)
    }

    /// The query string as it came, without the question mark.
    pub fn args(&self) -> &[u8] {
        let args = self.raw().args;
        if args.data.is_null() {
            return &[];
        }
        // SAFETY: N3; an `ngx_str_t` of a request is a slice of its header buffers.
        unsafe { std::slice::from_raw_parts(args.data, args.len) }
    }

    /// The values of all header fields of this name, in lower case, joined by commas. What is not
    /// UTF-8 in them is replaced.
    pub fn header(&mut self, name: &str) -> String {
        let fields = self.ngx().headers_in_iterator();
        let values = fields.filter(|(key, _)| key.as_bytes().eq_ignore_ascii_case(name.as_bytes()));
        values.map(|(_, value)| value.to_string_lossy()).collect::<Vec<_>>().join(",")
    }

    /// The location's configuration of a module.
    ///
    /// # Safety
    ///
    /// `T` is what `module` makes in `create_loc_conf`.
    pub unsafe fn location_conf<T>(&mut self, module: &ngx_module_t) -> Option<&T> {
        // SAFETY: by contract; N4.
        unsafe { Some(self.ngx().http_location_conf_unchecked::<T>(module)?.as_ref()) }
    }

    /// Reads and drops the request's body. Anything but success is for nginx to act on.
    pub fn discard_body(&mut self) -> Result<(), ngx_int_t> {
        match self.ngx().discard_request_body() {
            Status::NGX_OK => Ok(()),
            Status(code) => Err(code),
        }
    }

    /// Sends a response at once, and returns the code for nginx.
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

    /// Sends the head of a response, and takes its body over. An error is the code for nginx where
    /// nothing is to follow.
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
        // SAFETY: N1, N3.
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

    /// Gives memory to the request, which frees it when its pool ends. No copy.
    fn own(&mut self, body: Vec<u8>) -> Option<Unsent> {
        unsafe extern "C" fn free(body: *mut c_void) {
            // SAFETY: the vector that was written there, once.
            unsafe { std::ptr::drop_in_place(body.cast::<Vec<u8>>()) }
        }
        // SAFETY: N3, N4.
        unsafe {
            let cleanup = ngx_pool_cleanup_add(self.raw().pool, size_of::<Vec<u8>>()).as_mut()?;
            let owner = cleanup.data.cast::<Vec<u8>>();
            owner.write(body);
            cleanup.handler = Some(free);
            Some(Unsent((*owner).as_mut_slice().into()))
        }
    }

    /// Sends the next part of a body of this request. The code for nginx when nothing is left, or it
    /// failed.
    pub fn send(&mut self, unsent: &mut Unsent) -> Option<ngx_int_t> {
        // SAFETY: `own`; the request is alive, and so is what it owns.
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

    /// A buffer of nginx's for a part of the body.
    fn buffer(&self, part: &mut [u8], is_last: bool) -> Option<*mut ngx_buf_t> {
        let is_main = std::ptr::eq(self.raw().main, self.0.as_ptr());
        let ends = part.as_mut_ptr_range();
        // SAFETY: N3, N4: a buffer that nobody else uses yet.
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

    /// Keeps the request open for [`Request::end`]: the content handler returns `NGX_DONE`.
    /// When the client goes away meanwhile, nginx ends the request, and `gone` is called with its
    /// address as the last thing before it is freed. So is it after an ordinary end.
    pub fn hold(&mut self, gone: unsafe extern "C" fn(*mut c_void)) -> Result<(), ngx_int_t> {
        // SAFETY: N3, N4.
        let cleanup = unsafe { ngx_http_cleanup_add(self.0.as_ptr(), 0).as_mut() };
        let cleanup = cleanup.ok_or(FAILED)?;
        cleanup.handler = Some(gone);
        cleanup.data = self.0.as_ptr().cast();
        // SAFETY: N1, N3: the fields are those that nginx's own delaying modules set. While a body
        // is still being discarded, that reads the connection and notices its end.
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

    /// What the content handler returns after [`Request::hold`].
    pub const HELD: ngx_int_t = NGX_DONE as ngx_int_t;

    /// Lets a held request end, with the code of what was sent; `None` where there is nothing to send.
    /// It must not be used afterwards.
    pub fn end(self, code: Option<ngx_int_t>) {
        let connection = self.raw().connection;
        // SAFETY: N1, N3. As everywhere in nginx, the connection outlives its request, and what
        // waits on it is run when a request ends outside its own events.
        unsafe {
            ngx_http_finalize_request(self.0.as_ptr(), code.unwrap_or(NGX_ERROR as ngx_int_t));
            ngx_http_run_posted_requests(connection);
        }
    }

    /// The request's address, to know it by.
    pub fn address(&self) -> usize {
        self.0.as_ptr() as usize
    }
}
