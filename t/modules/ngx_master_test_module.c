/*
 * Effects of a configuration on the master, for the tests of its figures.
 *
 *     master_test_leak size;   allocates "size" bytes with malloc, writes to them, and never frees them
 *     master_test_pool size;   allocates "size" bytes from the cycle's pool
 *     master_test_wait path;   waits until the file at "path" exists
 */

#include <ngx_config.h>
#include <ngx_core.h>

static char *
ngx_master_test_leak(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_str_t *value = cf->args->elts;
    ssize_t size = ngx_parse_size(&value[1]);
    /* In small blocks, as rules and certificates are allocated. */
    for (ssize_t left = size; left > 0; left -= 4096) {
        void *piece = malloc(4096 - 16);
        if (piece == NULL) {
            return NGX_CONF_ERROR;
        }
        ngx_memset(piece, 1, 4096 - 16);
    }
    return NGX_CONF_OK;
}

static char *
ngx_master_test_pool(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_str_t *value = cf->args->elts;
    ssize_t size = ngx_parse_size(&value[1]);
    for (ssize_t left = size; left > 0; left -= 4096) {
        void *piece = ngx_palloc(cf->cycle->pool, 4096);
        if (piece == NULL) {
            return NGX_CONF_ERROR;
        }
        ngx_memset(piece, 1, 4096);
    }
    return NGX_CONF_OK;
}

static char *
ngx_master_test_wait(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_str_t *value = cf->args->elts;
    while (access((char *) value[1].data, F_OK) != 0) {
        ngx_msleep(10);
    }
    return NGX_CONF_OK;
}

static ngx_command_t ngx_master_test_commands[] = {
    { ngx_string("master_test_leak"), NGX_MAIN_CONF|NGX_DIRECT_CONF|NGX_CONF_TAKE1,
      ngx_master_test_leak, 0, 0, NULL },
    { ngx_string("master_test_pool"), NGX_MAIN_CONF|NGX_DIRECT_CONF|NGX_CONF_TAKE1,
      ngx_master_test_pool, 0, 0, NULL },
    { ngx_string("master_test_wait"), NGX_MAIN_CONF|NGX_DIRECT_CONF|NGX_CONF_TAKE1,
      ngx_master_test_wait, 0, 0, NULL },
    ngx_null_command
};

static ngx_core_module_t ngx_master_test_context = { ngx_string("master_test"), NULL, NULL };

ngx_module_t ngx_master_test_module = {
    NGX_MODULE_V1,
    &ngx_master_test_context,
    ngx_master_test_commands,
    NGX_CORE_MODULE,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NGX_MODULE_V1_PADDING
};

ngx_module_t *ngx_modules[] = { &ngx_master_test_module, NULL };
char *ngx_module_names[] = { "ngx_master_test_module", NULL };
char *ngx_module_order[] = { NULL };
