/*
 * A method of events that is level-triggered, as poll and select are, which most builds leave out:
 * `use level_test;` in events.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <poll.h>

#define EVENTS  4096

static ngx_event_t    *events[EVENTS];
static struct pollfd   list[EVENTS];
static ngx_uint_t      count;

static ngx_int_t
ngx_level_test_add(ngx_event_t *ev, ngx_int_t event, ngx_uint_t flags)
{
    ev->active = 1;
    if (ev->index == NGX_INVALID_INDEX) {
        if (count == EVENTS) {
            return NGX_ERROR;
        }
        ev->index = count;
        events[count++] = ev;
    }
    return NGX_OK;
}

static ngx_int_t
ngx_level_test_del(ngx_event_t *ev, ngx_int_t event, ngx_uint_t flags)
{
    ev->active = 0;
    if (ev->index != NGX_INVALID_INDEX) {
        events[ev->index] = events[--count];
        events[ev->index]->index = ev->index;
        ev->index = NGX_INVALID_INDEX;
    }
    return NGX_OK;
}

static ngx_int_t
ngx_level_test_process(ngx_cycle_t *cycle, ngx_msec_t timer, ngx_uint_t flags)
{
    int          ready;
    ngx_err_t    err;
    ngx_uint_t   i, polled = count;

    for (i = 0; i < polled; i++) {
        list[i].fd = ((ngx_connection_t *) events[i]->data)->fd;
        list[i].events = events[i]->write ? POLLOUT : POLLIN;
        list[i].revents = 0;
    }
    ready = poll(list, polled, (int) timer);
    err = (ready == -1) ? ngx_errno : 0;
    if (flags & NGX_UPDATE_TIME || ngx_event_timer_alarm) {
        ngx_time_update();
    }
    if (err == NGX_EINTR && ngx_event_timer_alarm) {
        ngx_event_timer_alarm = 0;
        return NGX_OK;
    }
    if (err) {
        if (err == NGX_EINTR) {
            return NGX_OK;
        }
        ngx_log_error(NGX_LOG_ALERT, cycle->log, err, "poll() failed");
        return NGX_ERROR;
    }
    /* Handlers change the list of events: they run when all of it was looked at. */
    for (i = 0; i < polled; i++) {
        if (list[i].revents) {
            events[i]->ready = 1;
            events[i]->available = -1;
            ngx_post_event(events[i], events[i]->accept ? &ngx_posted_accept_events : &ngx_posted_events);
        }
    }
    return NGX_OK;
}

static ngx_int_t ngx_level_test_init(ngx_cycle_t *cycle, ngx_msec_t timer);

static void
ngx_level_test_done(ngx_cycle_t *cycle)
{
    count = 0;
}

static ngx_str_t ngx_level_test_name = ngx_string("level_test");

static ngx_event_module_t ngx_level_test_context = {
    &ngx_level_test_name,
    NULL, NULL,
    {
        ngx_level_test_add, ngx_level_test_del, ngx_level_test_add, ngx_level_test_del,
        NULL, NULL, NULL,
        ngx_level_test_process, ngx_level_test_init, ngx_level_test_done
    }
};

static ngx_int_t
ngx_level_test_init(ngx_cycle_t *cycle, ngx_msec_t timer)
{
    ngx_io = ngx_os_io;
    ngx_event_actions = ngx_level_test_context.actions;
    ngx_event_flags = NGX_USE_LEVEL_EVENT;
    return NGX_OK;
}

ngx_module_t ngx_level_test_module = {
    NGX_MODULE_V1,
    &ngx_level_test_context,
    NULL,
    NGX_EVENT_MODULE,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NGX_MODULE_V1_PADDING
};

ngx_module_t *ngx_modules[] = { &ngx_level_test_module, NULL };
char *ngx_module_names[] = { "ngx_level_test_module", NULL };
char *ngx_module_order[] = { NULL };
