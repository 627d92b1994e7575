/*
 * Content handlers for the tests of pools.
 *
 *     pool_test_hold small large count;  allocates "small" bytes from blocks and "count" large allocations
 *                                        of "large" bytes, logs the pool's address, and never answers
 *     pool_test_give_back small large count;  allocates the same, logs the pool's size, frees the large
 *                                        allocations, and answers
 *     pool_test_leak size;               creates a pool for each request and never destroys it
 *     pool_test_reset size;              creates a pool, fills it, resets it, and destroys it
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <malloc.h>

typedef struct {
    ngx_int_t  numbers[3];
} ngx_http_pool_test_conf_t;

extern ngx_module_t ngx_http_pool_test_module;

static ngx_int_t
ngx_http_pool_test_done(ngx_http_request_t *r)
{
    r->headers_out.status = NGX_HTTP_NO_CONTENT;
    r->header_only = 1;
    return ngx_http_send_header(r);
}

static ngx_int_t *
ngx_http_pool_test_numbers(ngx_http_request_t *r)
{
    ngx_http_pool_test_conf_t *conf = ngx_http_get_module_loc_conf(r, ngx_http_pool_test_module);
    return conf->numbers;
}

static ngx_int_t
ngx_http_pool_test_fill(ngx_http_request_t *r)
{
    ngx_int_t *numbers = ngx_http_pool_test_numbers(r);

    for (ngx_int_t left = numbers[0]; left > 0; left -= 1000) {
        if (ngx_palloc(r->pool, ngx_min(left, 1000)) == NULL) {
            return NGX_ERROR;
        }
    }
    for (ngx_int_t i = 0; i < numbers[2]; i++) {
        if (ngx_palloc(r->pool, numbers[1]) == NULL) {
            return NGX_ERROR;
        }
    }
    return NGX_OK;
}

static ngx_int_t
ngx_http_pool_test_give_back(ngx_http_request_t *r)
{
    size_t  size = 0;

    if (ngx_http_pool_test_fill(r) != NGX_OK) {
        return NGX_ERROR;
    }
    for (ngx_pool_t *block = r->pool; block; block = block->d.next) {
        size += block->d.end - (u_char *) block;
    }
    for (ngx_pool_large_t *large = r->pool->large; large; large = large->next) {
        size += malloc_usable_size(large->alloc);
    }
    ngx_log_error(NGX_LOG_NOTICE, r->connection->log, 0, "pool_test has %uz", size);
    for (ngx_pool_large_t *large = r->pool->large; large; large = large->next) {
        if (large->alloc && ngx_pfree(r->pool, large->alloc) != NGX_OK) {
            return NGX_ERROR;
        }
    }
    return ngx_http_pool_test_done(r);
}

static ngx_int_t
ngx_http_pool_test_hold(ngx_http_request_t *r)
{
    if (ngx_http_pool_test_fill(r) != NGX_OK) {
        return NGX_ERROR;
    }
    ngx_log_error(NGX_LOG_NOTICE, r->connection->log, 0, "pool_test holds %p", r->pool);
    r->main->count++;
    return NGX_DONE;
}

static ngx_int_t
ngx_http_pool_test_leak(ngx_http_request_t *r)
{
    if (ngx_create_pool(ngx_http_pool_test_numbers(r)[0], ngx_cycle->log) == NULL) {
        return NGX_ERROR;
    }
    return ngx_http_pool_test_done(r);
}

static ngx_int_t
ngx_http_pool_test_reset(ngx_http_request_t *r)
{
    size_t       size = ngx_http_pool_test_numbers(r)[0];
    ngx_pool_t  *pool = ngx_create_pool(size, ngx_cycle->log);

    if (pool == NULL || ngx_palloc(pool, 10 * size) == NULL) {
        return NGX_ERROR;
    }
    ngx_reset_pool(pool);
    ngx_destroy_pool(pool);
    return ngx_http_pool_test_done(r);
}

static char *
ngx_http_pool_test_set(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_pool_test_conf_t *test = conf;
    ngx_http_core_loc_conf_t  *core;
    ngx_str_t                 *words = cf->args->elts;

    for (ngx_uint_t i = 1; i < cf->args->nelts && i <= 3; i++) {
        test->numbers[i - 1] = ngx_atoi(words[i].data, words[i].len);
    }
    core = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    core->handler = (ngx_http_handler_pt) cmd->post;
    return NGX_CONF_OK;
}

static void *
ngx_http_pool_test_create_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_pool_test_conf_t));
}

static ngx_command_t ngx_http_pool_test_commands[] = {
    { ngx_string("pool_test_hold"), NGX_HTTP_LOC_CONF | NGX_CONF_TAKE3, ngx_http_pool_test_set,
      NGX_HTTP_LOC_CONF_OFFSET, 0, ngx_http_pool_test_hold },
    { ngx_string("pool_test_give_back"), NGX_HTTP_LOC_CONF | NGX_CONF_TAKE3, ngx_http_pool_test_set,
      NGX_HTTP_LOC_CONF_OFFSET, 0, ngx_http_pool_test_give_back },
    { ngx_string("pool_test_leak"), NGX_HTTP_LOC_CONF | NGX_CONF_TAKE1, ngx_http_pool_test_set,
      NGX_HTTP_LOC_CONF_OFFSET, 0, ngx_http_pool_test_leak },
    { ngx_string("pool_test_reset"), NGX_HTTP_LOC_CONF | NGX_CONF_TAKE1, ngx_http_pool_test_set,
      NGX_HTTP_LOC_CONF_OFFSET, 0, ngx_http_pool_test_reset },
    ngx_null_command
};

static ngx_http_module_t ngx_http_pool_test_ctx = {
    NULL, NULL, NULL, NULL, NULL, NULL, ngx_http_pool_test_create_conf, NULL
};

ngx_module_t ngx_http_pool_test_module = {
    NGX_MODULE_V1,
    &ngx_http_pool_test_ctx,
    ngx_http_pool_test_commands,
    NGX_HTTP_MODULE,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NGX_MODULE_V1_PADDING
};

/* The symbols that configure generates for a dynamic module. */
ngx_module_t *ngx_modules[] = { &ngx_http_pool_test_module, NULL };
char *ngx_module_names[] = { "ngx_http_pool_test_module", NULL };
char *ngx_module_order[] = { NULL };
